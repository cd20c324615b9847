"""`manta run`: from a question to a report in a folder."""

import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console

from manta.cli import inputs
from manta.cli.asking import WAITS, say_waiting
from manta.cli.common import err, out, say, say_json, session
from manta.cli.output import Written, check_folder, write_output
from manta.cli.platform import bring_up
from manta.cli.progress import watcher
from manta.client import Client
from manta.errors import InvalidInput, NotFound
from manta.messages import to_json
from manta.wire import Run, RunResult

REPORT_GRAPH = "research_report"


def run(
    ctx: typer.Context,
    question: Annotated[str, typer.Argument(help="What you want to know.", show_default=False)] = "",
    graph: Annotated[str, typer.Option("--graph", "-g", help="The graph to run.")] = REPORT_GRAPH,
    docs: Annotated[
        Path | None, typer.Option(help="Folder of text, Markdown, HTML or PDF files. Without it: web search.")
    ] = None,
    data: Annotated[list[Path] | None, typer.Option(help="CSV file to analyse; may be given again.")] = None,
    input_json: Annotated[
        str, typer.Option("--input", metavar="JSON", help="Further input as JSON, or @file.json.")
    ] = "",
    out_dir: Annotated[Path, typer.Option("--out", help="Where report and charts are written.")] = Path(
        "out"
    ),
    max_questions: Annotated[int, typer.Option(help="Sub-questions at most.", min=1, max=12)] = 3,
    thread: Annotated[str, typer.Option("--thread", help="The conversation it belongs to.")] = "",
    budget: Annotated[str, typer.Option("--budget", help="What it may use: tokens=1000,seconds=60.")] = "",
    priority: Annotated[int, typer.Option("--priority", min=-100, max=100, help="Lower goes first.")] = 0,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.001, help="Seconds until its deadline.")
    ] = None,
    webhook: Annotated[str, typer.Option("--webhook", help="An address that is told of its end.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One event per line, as JSON.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Submit, say the run's id, and leave.")] = False,
) -> None:
    """Ask a question; get a report with checked citations. Starts the platform if it is not up.

    When the run comes to wait for a person, the question is shown with the commands that answer it (status 3).

    Examples:

      manta run "How does the autoscaler decide?" --docs handbook/ --data load.csv

      manta run "What is new in SQLite?"                     (searches the web)

      manta run --graph my_graph --input '{"topic": "tides"}' --json
    """
    given = inputs.read_json_object(input_json) if input_json else {}
    _check(question, graph, given, docs, data or [], None if detach else out_dir)
    limits = inputs.read_budget(budget) or None
    base = session(ctx)
    if not base.url:
        bring_up(base, to_stderr=as_json)
    with base.client() as client:
        check_graph(client, graph)
        run_input = _run_input(client, question, graph, given, docs, data or [], max_questions, as_json)
        started = client.submit(
            graph,
            run_input,
            idempotency_key=str(uuid.uuid4()),
            metadata={"source": "cli"},
            thread=thread or None,
            budget=limits,
            priority=priority,
            timeout_s=timeout,
            webhook=webhook or None,
        )
        if detach:
            _say_detached(started, as_json)
            return
        _finish(client, started.id, out_dir, as_json)


def _finish(client: Client, run_id: str, out_dir: Path, as_json: bool) -> None:
    """See a run through: to its files, its error, or its question."""
    finished = follow(client, run_id, as_json)
    if finished.run.status == "waiting":
        say_waiting(finished.run, as_json)
        raise typer.Exit(WAITS)
    if finished.run.status != "success":
        raise finished.run.failure()
    written = write_output(finished.output, out_dir, client.download)
    _say_done(client, finished, written, as_json)


def follow(client: Client, run_id: str, as_json: bool) -> RunResult:
    """Show a run until it is done or waits for a person. The first Ctrl-C says how to come back, the second leaves."""
    console = out()
    with watcher(console, as_json) as view, _gentle_interrupt(run_id, err() if as_json else console):
        for event in client.stream(run_id):
            view.see(event)
        return client.wait(run_id)


@contextmanager
def _gentle_interrupt(run_id: str, console: Console) -> Iterator[None]:
    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        console.print(
            f"\nThe run goes on without this command; Ctrl-C again leaves it.\n"
            f"  follow: manta logs {run_id} --follow\n  cancel: manta cancel {run_id}",
            markup=False,
        )

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _check(
    question: str,
    graph: str,
    given: dict[str, Any],
    docs: Path | None,
    data: list[Path],
    out_dir: Path | None,
) -> None:
    if graph == REPORT_GRAPH:
        inputs.check_question(question or str(given.get("question", "")))
    elif not question and not given:
        raise InvalidInput(f"nothing to give to graph {graph!r}", fix="a question, or --input JSON")
    if docs is not None:
        inputs.documents_in(docs)
    for file in data:
        inputs.check_table(file)
    if out_dir is not None:
        check_folder(out_dir)


def check_graph(client: Client, graph: str) -> None:
    names = sorted(g.name for g in client.graphs())
    if graph not in names:
        raise NotFound(
            f"there is no graph {graph!r}; there are: {', '.join(names) or 'none'}",
            fix="check --graph",
            code="unknown_graph",
        )


def _run_input(
    client: Client,
    question: str,
    graph: str,
    given: dict[str, Any],
    docs: Path | None,
    data: list[Path],
    max_questions: int,
    to_stderr: bool,
) -> dict[str, Any]:
    run_input: dict[str, Any] = {}
    if graph == REPORT_GRAPH:
        run_input = {"collection": None, "data": [], "max_questions": max_questions}
    if question.strip():
        run_input["question"] = question.strip()
    if docs is not None:
        ingested = inputs.ingest(client, docs, lambda line: say(line, style="yellow", to_stderr=to_stderr))
        run_input["collection"] = ingested.collection
        say(
            f"documents: {ingested.added} read, {ingested.unchanged} unchanged, {ingested.skipped} skipped"
            f" (collection {ingested.collection})",
            to_stderr=to_stderr,
        )
    if data:
        run_input["data"] = [to_json(client.upload_file(file)) for file in data]
    return {**run_input, **given}


def _say_detached(run: Run, as_json: bool) -> None:
    if as_json:
        say_json({"run": run.id})
        return
    say(f"run {run.id} is submitted")
    say(f"  follow: manta logs {run.id} --follow\n  result: manta show {run.id} --out out")


def _say_done(client: Client, result: RunResult, written: Written, as_json: bool) -> None:
    usage = result.run.usage
    if as_json:
        files = [str(f) for f in written.files]
        counts = {"citations": written.citations, "dropped": written.dropped}
        say_json({"type": "result", "run": result.run.id, "files": files, **counts, "usage": to_json(usage)})
        return
    for file in written.files:
        say(f"wrote {file}", style="bold")
    if written.citations is not None:
        say(f"{written.citations} citations, {written.dropped} unsupported sentences dropped")
    say(f"{usage.input_tokens} tokens in, {usage.output_tokens} out, {usage.model_calls} model calls")
    say(f"web: {client.base_url}/  ·  again: manta show {result.run.id}")
