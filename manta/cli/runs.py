"""`runs`, `show`, `cancel`, `logs`: looking at what ran and what is running."""

import dataclasses
import time
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

from manta import platform_process
from manta.cli.asking import answer_lines, question_lines
from manta.cli.common import Session, out, say, say_json, say_table, session
from manta.cli.output import check_folder, write_output
from manta.cli.progress import JsonLines, Lines, step_line
from manta.cli.run_view import State, StepView
from manta.client import Client
from manta.errors import InvalidInput, MantaError, NotFound
from manta.messages import to_json
from manta.wire import Run, StepState

_VIEW_STATES: dict[str, State] = {
    "started": "running",
    "waiting": "waiting",
    "done": "done",
    "failed": "failed",
    "skipped": "skipped",
}
_STYLES = {"success": "green", "pending": "", "waiting": "yellow"}
_SILENCE_S = 1.0
_POLL_S = 1.0


def complete_run(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Run ids for the shell; nothing when the platform does not answer."""
    try:
        with session(ctx.find_root()).client() as client:
            found = client.list(limit=50)
    except MantaError:
        return []
    return [(run.id, f"{run.graph} {run.status}") for run in found if run.id.startswith(incomplete)]


RunArgument = Annotated[
    str, typer.Argument(help="The run's id.", autocompletion=complete_run, show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


def runs(
    ctx: typer.Context,
    graph: Annotated[str, typer.Option("--graph", "-g", help="Only runs of this graph.")] = "",
    status: Annotated[
        str, typer.Option(help="pending, waiting, success, error, timeout or interrupted.")
    ] = "",
    thread: Annotated[str, typer.Option("--thread", help="Only runs of this conversation.")] = "",
    dead: Annotated[
        bool,
        typer.Option(
            "--dead", help="Only runs that were given up because they kept killing who worked on them."
        ),
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    as_json: Json = False,
) -> None:
    """List runs, newest first."""
    with session(ctx).client() as client:
        found = client.list(
            graph=graph or None,
            status=status or None,
            reason="dead_letter" if dead else None,
            thread=thread or None,
            limit=limit,
        )
    if as_json:
        for run in found:
            say_json(run_json(run))
        return
    if not found:
        narrowed = graph or status or thread or dead
        say("no such runs" if narrowed else 'no runs yet; start one: manta run "your question"')
        return
    # An id that is cut off is of no use to the next command.
    run_column = Column("run", no_wrap=True, min_width=36)
    table = Table(
        run_column, "graph", "status", "started", "seconds", "tokens", "input", box=None, pad_edge=False
    )
    for run in found:
        usage = run.usage
        table.add_row(
            run.id,
            run.graph,
            Text(run.state or run.status, style=_STYLES.get(run.status, "red")),
            run.created_at.astimezone().strftime("%m-%d %H:%M:%S"),
            f"{_seconds(run):.0f}",
            str(usage.input_tokens + usage.output_tokens),
            Text(_gist(run), overflow="ellipsis", no_wrap=True),
        )
    say_table(table)


def show(
    ctx: typer.Context,
    run_id: RunArgument,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Also write its report to this folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a run: its steps, what it used, how it ended."""
    if out_dir is not None:
        check_folder(out_dir)
    with session(ctx).client() as client:
        run = client.get(run_id)
        if as_json:
            say_json(run_json(run))
        else:
            _say_run(run)
        if out_dir is not None:
            if run.status == "waiting":
                raise run.failure()
            if run.status != "success":
                raise InvalidInput(
                    f"run {run_id} has no output: it is {run.status}", fix=f"manta logs {run_id} --follow"
                )
            for file in write_output(client.wait(run_id).output, out_dir, client.download).files:
                say(f"wrote {file}", to_stderr=as_json)


def cancel(
    ctx: typer.Context,
    run_id: RunArgument,
    wait: Annotated[bool, typer.Option(help="Return once it has stopped.")] = True,
) -> None:
    """Stop a run: its steps and its model calls."""
    with session(ctx).client() as client:
        client.cancel(run_id, wait=wait)
    say(f"cancelled {run_id}")


def logs(
    ctx: typer.Context,
    run_id: Annotated[
        str, typer.Argument(help="A run; without it the platform's own log.", autocompletion=complete_run)
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows; Ctrl-C ends.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Of the platform's log.", min=1)] = 100,
    as_json: Json = False,
) -> None:
    """What happened in a run, or in the platform.

    Examples:

      manta logs --follow

      manta logs 0b8e5f62-… --json
    """
    base = session(ctx)
    if not run_id:
        _platform_log(base, lines, follow)
        return
    with base.client() as client:
        _run_log(client, run_id, follow, as_json)


def run_json(run: Run) -> dict[str, object]:
    times = {"created_at": run.created_at.isoformat(), "updated_at": run.updated_at.isoformat()}
    error = run.error.to_json() if run.error else None
    whole = {field.name: to_json(getattr(run, field.name)) for field in dataclasses.fields(run)}
    return {**whole, **times, "error": error}


def _say_run(run: Run) -> None:
    say(f"run      {run.id}")
    say(f"graph    {run.graph} {run.graph_version}")
    cause = f" ({run.reason})" if run.reason and run.reason != run.status else ""
    say(f"status   {run.status}{cause}")
    say(f"started  {run.created_at.astimezone():%Y-%m-%d %H:%M:%S}, {_seconds(run):.1f} s")
    say(f"input    {_gist(run)}")
    usage = run.usage
    say(
        f"used     {usage.input_tokens} tokens in ({usage.cached_tokens} cached), {usage.output_tokens} out,"
        f" {usage.model_calls} model and {usage.tool_calls} tool calls"
    )
    for line in _extras(run):
        say(line)
    for step in run.steps:
        say(f"  {step_line(_view(step), time.time())}")
    for asked in run.waiting:
        for line in (*question_lines(asked), *answer_lines(run.id, asked, alone=len(run.waiting) == 1)):
            say(line)
    if run.error is not None:
        say(f"error    {run.error}", style="red")


def _extras(run: Run) -> Iterator[str]:
    """What only some runs have."""
    if run.usage.cost_micros:
        yield f"cost     {run.usage.cost_micros / 1e6:g}"
    if run.budget is not None:
        limits = {name: value for name, value in dataclasses.asdict(run.budget).items() if value is not None}
        yield f"budget   {', '.join(f'{name}={value:g}' for name, value in limits.items())}"
    if run.thread:
        yield f"thread   {run.thread}"
    if run.forked_from:
        yield f"forked   from {run.forked_from}"


def _view(step: StepState) -> StepView:
    ended = step.finished_at is not None and step.started_at is not None
    return StepView(
        key=step.key,
        state=_VIEW_STATES.get(step.state, "planned"),
        agent=step.agent or "",
        attempt=step.attempt,
        started_at=step.started_at,
        seconds=(step.finished_at or 0) - (step.started_at or 0) if ended else None,
        tokens=step.usage.input_tokens + step.usage.output_tokens,
        note=str(step.error.get("message", "")) if step.error else "",
    )


def _run_log(client: Client, run_id: str, follow: bool, as_json: bool) -> None:
    # A run that still goes on is read until it falls silent, unless it is to be followed.
    silence = None if follow or client.get(run_id).done else _SILENCE_S
    last = 0
    with (JsonLines if as_json else Lines)(out()) as view:
        while True:
            for event in client.stream(run_id, last, silence_s=silence):
                last = max(last, event.seq)
                if event.seq or follow:
                    view.see(event)
            if not follow or client.get(run_id).done:
                return
            # It waits for a person; the stream goes on once there is an answer.
            while client.get(run_id).status == "waiting":
                time.sleep(_POLL_S)


def _platform_log(base: Session, lines: int, follow: bool) -> None:
    log = platform_process.log_file(base.settings().home)
    if not log.is_file():
        raise NotFound(f"there is no log {log}", fix="manta up")
    for line in _tail(log, lines, follow):
        out().print(line, markup=False)


def _tail(log: Path, lines: int, follow: bool) -> Iterator[str]:
    with log.open(encoding="utf-8", errors="replace") as file:
        for line in deque(file, lines):
            yield line.rstrip("\n")
        while follow:
            line = file.readline()
            if line:
                yield line.rstrip("\n")
            else:
                time.sleep(0.2)


def _seconds(run: Run) -> float:
    end = run.updated_at if run.done else datetime.now(run.created_at.tzinfo)
    return max(0.0, (end - run.created_at).total_seconds())


def _gist(run: Run) -> str:
    given = run.input
    text = given.get("question", given) if isinstance(given, dict) else given
    line = " ".join(str(text).split())
    return line if len(line) <= 80 else line[:79] + "…"
