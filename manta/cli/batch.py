"""`manta batch`: a file of tasks as a Ray job, with a progress bar."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from manta import jobs
from manta.batch import BatchProgress, read_tasks
from manta.cli.common import out, say, session
from manta.cli.output import check_folder
from manta.cli.platform import bring_up
from manta.cli.run import REPORT_GRAPH, check_graph
from manta.errors import InvalidInput, StepError


def batch(
    ctx: typer.Context,
    tasks: Annotated[Path, typer.Argument(help='JSON lines: {"question": ...} or {"input": {...}}.')],
    graph: Annotated[str, typer.Option("--graph", "-g", help="The graph to run.")] = REPORT_GRAPH,
    results: Annotated[Path, typer.Option("--out", help="One result line per task.")] = Path("results.jsonl"),
    concurrency: Annotated[int, typer.Option(help="Runs in flight at once.", min=1, max=1000)] = 4,
    detach: Annotated[bool, typer.Option("--detach", help="Submit and leave.")] = False,
) -> None:
    """Run a file of tasks as a Ray job. Started again, it goes on with what has not succeeded.

    Exit status 1 when a task failed. Example:

      manta batch tasks.jsonl --graph research_report --out results.jsonl
    """
    try:
        count = len(read_tasks(tasks.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {tasks}: {error}", fix="check the path") from None
    check_folder(results.parent)
    base = session(ctx)
    platform, _ = bring_up(base, to_stderr=False)
    with base.client() as client:
        check_graph(client, graph)
    job = jobs.submit_batch(tasks, graph, results, concurrency=concurrency, platform=platform)
    say(f"{count} tasks in Ray job {job.id}")
    if detach:
        return
    try:
        last = _show(jobs.follow(job), count)
    except KeyboardInterrupt:
        say(f"the job goes on; stop it with: ray job stop --address {job.dashboard} {job.id}")
        raise
    say(f"{last.done - last.failed} of {last.total} succeeded; results in {results}")
    if last.failed:
        raise StepError(
            f"{last.failed} of {last.total} tasks failed", fix=f"see {results}", code="tasks_failed"
        )


def _show(updates: Iterator[BatchProgress], count: int) -> BatchProgress:
    console = out()
    last = BatchProgress(count)
    if not console.is_terminal:
        for last in updates:
            say(f"{last.done} of {last.total} done, {last.failed} failed")
        return last
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        line = bar.add_task("runs", total=count)
        for last in updates:
            description = f"runs, {last.failed} failed" if last.failed else "runs"
            bar.update(line, completed=last.done, total=last.total, description=description)
    return last
