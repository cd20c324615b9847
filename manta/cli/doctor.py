"""`manta doctor`: is this machine fit, and if not, what mends it."""

from typing import Annotated

import typer

from manta.cli.checks import Check, all_checks
from manta.cli.common import say, say_json, session
from manta.messages import to_json

_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red"), "skip": ("–", "dim")}


def doctor(
    ctx: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False
) -> None:
    """Check Python, packages, memory, disk, ports, sandbox, models, GPU and the platform.

    Each failure comes with its fix. Exit status 1 when something fails.
    """
    done: list[Check] = []
    for check in all_checks(session(ctx).settings()):
        result = check()
        done.append(result)
        if not as_json:
            _say(result)
    if as_json:
        say_json(to_json(done))
    if any(check.state == "fail" for check in done):
        raise typer.Exit(1)


def _say(check: Check) -> None:
    mark, style = _MARKS[check.state]
    say(f"{mark} {check.name:9} {check.detail}", style=style)
    if check.fix and check.state in ("warn", "fail"):
        say(f"  {'':9} fix: {check.fix}")
