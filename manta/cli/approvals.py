"""`approvals`, `approve`: what waits for a person, and the answer to it."""

from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from manta.cli.asking import answer_lines, question_lines
from manta.cli.common import say, say_json, say_table, session
from manta.cli.inputs import read_json
from manta.cli.runs import Json, RunArgument, run_json
from manta.client import Client
from manta.errors import InvalidInput
from manta.messages import to_json
from manta.wire import Run


def approvals(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=200, help="Of runs.")] = 50,
    as_json: Json = False,
) -> None:
    """What waits for a person, newest first."""
    with session(ctx).client() as client:
        found = client.approvals(limit=limit)
    if as_json:
        for approval in found:
            say_json(to_json(approval))
        return
    if not found:
        say("nothing waits for a person")
        return
    table = Table(
        Column("run", no_wrap=True, min_width=36),
        "graph",
        "step",
        "since",
        "question",
        box=None,
        pad_edge=False,
    )
    for approval in found:
        since = datetime.fromtimestamp(approval.since).strftime("%m-%d %H:%M") if approval.since else ""
        question = Text(approval.question, overflow="ellipsis", no_wrap=True)
        table.add_row(approval.run_id, approval.graph, Text(approval.step), since, question)
    say_table(table)
    say("look at one and answer it: manta approve RUN --show")


def approve(
    ctx: typer.Context,
    run_id: RunArgument,
    step: Annotated[str, typer.Option("--step", help="Which step, where several wait.")] = "",
    reject: Annotated[bool, typer.Option("--reject", help="Let the step fail.")] = False,
    edit: Annotated[
        str,
        typer.Option("--edit", metavar="JSON", help="Go on with this instead of what is shown, or @file."),
    ] = "",
    retry: Annotated[bool, typer.Option("--retry", help="The call had no effect: make it again.")] = False,
    resolve: Annotated[
        str, typer.Option("--resolve", metavar="JSON", help="The call had this result, or @file.")
    ] = "",
    comment: Annotated[str, typer.Option("--comment", help="Kept with the answer.")] = "",
    show: Annotated[bool, typer.Option("--show", help="Only say what waits, and how to answer it.")] = False,
    as_json: Json = False,
) -> None:
    """Answer a step that waits for a person; without an option it is approved, and the run goes on.

    Examples:

      manta approve 0b8e5f62-… --show

      manta approve 0b8e5f62-… --comment "looks right"

      manta approve 0b8e5f62-… --edit @better.json

      manta approve 0b8e5f62-… --reject --comment "wrong customer"
    """
    action, value = _action(reject, edit, retry, resolve)
    with session(ctx).client() as client:
        if show:
            _show(client.get(run_id), as_json)
            return
        run = _decide(client, run_id, action, value, step or None, comment)
    if as_json:
        say_json(run_json(run))
        return
    say(f"{_DONE[action]}; run {run_id} goes on")
    say(f"  follow: manta logs {run_id} --follow\n  result: manta show {run_id} --out out")


_DONE = {
    "approve": "approved",
    "reject": "rejected",
    "edit": "approved with a change",
    "retry": "the call is made again",
    "resolve": "the call's result is taken",
}


def _action(reject: bool, edit: str, retry: bool, resolve: str) -> tuple[str, Any]:
    chosen = [
        name
        for name, given in (("reject", reject), ("edit", edit), ("retry", retry), ("resolve", resolve))
        if given
    ]
    if len(chosen) > 1:
        raise InvalidInput(
            f"--{' and --'.join(chosen)} cannot go together", fix="give one of them, or none to approve"
        )
    action = chosen[0] if chosen else "approve"
    text = {"edit": edit, "resolve": resolve}.get(action, "")
    return action, read_json(text, f"--{action}") if text else None


def _decide(client: Client, run_id: str, action: str, value: Any, step: str | None, comment: str) -> Run:
    if action in ("edit", "resolve"):
        return getattr(client, action)(run_id, value, step=step, comment=comment)  # type: ignore[no-any-return]
    return getattr(client, action)(run_id, step=step, comment=comment)  # type: ignore[no-any-return]


def _show(run: Run, as_json: bool) -> None:
    if as_json:
        say_json(to_json(list(run.waiting)))
        return
    if not run.waiting:
        say(f"nothing waits in run {run.id}: it is {run.status}")
    for step in run.waiting:
        for line in (*question_lines(step), *answer_lines(run.id, step, alone=len(run.waiting) == 1)):
            say(line)
