"""`manta schedules`: runs that start by the clock."""

from datetime import datetime
from typing import Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

from manta.cli.common import ErrorLines, say, say_json, say_table, session
from manta.cli.inputs import read_json_object
from manta.messages import to_json
from manta.wire import Schedule

app = typer.Typer(
    cls=ErrorLines, no_args_is_help=True, help="Runs by the clock: list, add, remove, enable, disable."
)

Json = Annotated[bool, typer.Option("--json", help="For programs.")]
ScheduleArgument = Annotated[
    str, typer.Argument(metavar="SCHEDULE", help="The schedule's id.", show_default=False)
]


@app.command("list")
def list_(
    ctx: typer.Context,
    graph: Annotated[str, typer.Option("--graph", "-g", help="Only those of this graph.")] = "",
    as_json: Json = False,
) -> None:
    """List schedules, newest first."""
    with session(ctx).client() as client:
        found = client.schedules.list(graph=graph or None)
    if as_json:
        for schedule in found:
            say_json(to_json(schedule))
        return
    if not found:
        say('no schedules yet; add one: manta schedules add GRAPH "0 7 * * 1-5"')
        return
    table = Table(
        Column("schedule", no_wrap=True, min_width=36),
        "graph",
        "cron",
        "next",
        "last",
        box=None,
        pad_edge=False,
    )
    for schedule in found:
        cron = f"{schedule.cron} {schedule.timezone}"
        following = _time(schedule.next_at) if schedule.enabled else "disabled"
        table.add_row(schedule.id, schedule.graph, cron, following, Text(_last(schedule)))
    say_table(table)


@app.command()
def add(
    ctx: typer.Context,
    graph: Annotated[str, typer.Argument(help="The graph to run.", show_default=False)],
    cron: Annotated[
        str, typer.Argument(help="Minute, hour, day of month, month, day of week.", show_default=False)
    ],
    input_json: Annotated[
        str, typer.Option("--input", metavar="JSON", help="The graph's input, or @file.json.")
    ] = "",
    timezone: Annotated[str, typer.Option("--timezone", help="Such as Europe/Berlin.")] = "UTC",
    disabled: Annotated[bool, typer.Option("--disabled", help="Do not run it before it is enabled.")] = False,
) -> None:
    """Run a graph by the clock.

    Example: manta schedules add chain "0 7 * * 1-5" --timezone Europe/Berlin --input @input.json
    """
    given = read_json_object(input_json) if input_json else {}
    with session(ctx).client() as client:
        made = client.schedules.create(graph, given, cron, timezone=timezone, enabled=not disabled)
    say(f"schedule {made.id}")
    say(f"  next: {_time(made.next_at) if made.enabled else 'when it is enabled'}")


@app.command()
def remove(ctx: typer.Context, schedule_id: ScheduleArgument) -> None:
    """Delete a schedule; its runs stay."""
    with session(ctx).client() as client:
        client.schedules.delete(schedule_id)
    say(f"removed {schedule_id}")


@app.command()
def enable(ctx: typer.Context, schedule_id: ScheduleArgument) -> None:
    """Let a schedule run; times that it missed are not made up for."""
    _switch(ctx, schedule_id, on=True)


@app.command()
def disable(ctx: typer.Context, schedule_id: ScheduleArgument) -> None:
    """Keep a schedule without running it."""
    _switch(ctx, schedule_id, on=False)


def _switch(ctx: typer.Context, schedule_id: str, *, on: bool) -> None:
    with session(ctx).client() as client:
        schedule = client.schedules.patch(schedule_id, enabled=on)
    say(f"next: {_time(schedule.next_at)}" if on else f"disabled {schedule_id}")


def _time(at: float | None) -> str:
    return "" if at is None else f"{datetime.fromtimestamp(at):%Y-%m-%d %H:%M}"


def _last(schedule: Schedule) -> str:
    if schedule.last_error:
        return f"{_time(schedule.last_at)} failed: {schedule.last_error.get('message', '')}"
    return f"{_time(schedule.last_at)} {schedule.last_run or ''}".strip()
