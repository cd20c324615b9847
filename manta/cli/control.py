"""`fork`, `resume`, `feedback`: what can be done with a run that was."""

import uuid
from typing import Annotated

import typer

from manta.cli.common import say, say_json, session
from manta.cli.inputs import read_budget, read_json_object
from manta.cli.runs import Json, RunArgument, run_json
from manta.messages import to_json
from manta.wire import Run


def fork(
    ctx: typer.Context,
    run_id: RunArgument,
    step: Annotated[str, typer.Option("--step", help="The step execution to begin with; see `manta show`.")],
    input_json: Annotated[
        str, typer.Option("--input", metavar="JSON", help="Its input in the new run, or @file.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Start a new run that keeps what this one did before a step, and goes on from there.

    Example: manta fork 0b8e5f62-… --step write --input @input.json
    """
    given = read_json_object(input_json) if input_json else None
    with session(ctx).client() as client:
        made = client.fork(run_id, step, given, idempotency_key=str(uuid.uuid4()))
    _say_started(made, f"run {made.id} goes on from {step}", as_json)


def resume(
    ctx: typer.Context,
    run_id: RunArgument,
    budget: Annotated[
        str, typer.Option("--budget", help="What the run may use now: tokens=1000,seconds=60.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Open a run again that failed, timed out or was cancelled. What was done stays; what failed runs anew.

    Example: manta resume 0b8e5f62-… --budget tokens=50000
    """
    more = read_budget(budget) or None
    with session(ctx).client() as client:
        run = client.resume(run_id, budget=more)
    _say_started(run, f"run {run.id} goes on", as_json)


def feedback(
    ctx: typer.Context,
    run_id: RunArgument,
    rating: Annotated[int | None, typer.Option("--rating", min=1, max=5, help="1 (worst) to 5.")] = None,
    comment: Annotated[str, typer.Option("--comment", help="In words.")] = "",
    as_json: Json = False,
) -> None:
    """Say what you think of a run; without an option, show what was said.

    Example: manta feedback 0b8e5f62-… --rating 2 --comment "the second source is off the point"
    """
    with session(ctx).client() as client:
        if rating is None and not comment:
            found = client.feedback(run_id)
            if as_json:
                say_json([_plain(entry) for entry in found])
                return
            for entry in found:
                stars = f"{entry.rating}/5" if entry.rating is not None else "-"
                say(f"{entry.created_at.astimezone():%Y-%m-%d %H:%M}  {stars}  {entry.by}  {entry.comment}")
            if not found:
                say("nothing was said of this run yet")
            return
        added = client.rate(run_id, rating, comment)
    if as_json:
        say_json(_plain(added))
    else:
        say("thank you")


def _plain(entry: object) -> object:
    return {**to_json(entry), "created_at": str(getattr(entry, "created_at", ""))}


def _say_started(run: Run, line: str, as_json: bool) -> None:
    if as_json:
        say_json(run_json(run))
        return
    say(line)
    say(f"  follow: manta logs {run.id} --follow\n  result: manta show {run.id} --out out")
