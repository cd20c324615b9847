"""`manta replay`: a recorded run against the present code, by a process of the coordinator's."""

from typing import Annotated, Literal

import typer

from manta.cli.on_journal import run_on_journal


def replay(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")],
    graph: Annotated[
        Literal["recorded", "current"],
        typer.Option(help="The graph that the run kept, or that of today's files."),
    ] = "recorded",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Execute a recorded run again, without models and tools, and compare.

    The graph's and the agents' present code runs; models, tools and people answer from the record. It fails at
    the first call whose request is not the recorded one, and shows the difference: a regression test for
    changed prompts and code. Needs no platform, and changes nothing.

    Examples:

      manta replay 0b2f6f0c-8a3e-4a53-9a43-6f6c8f0a0c55

      manta replay RUN --graph current
    """
    run_on_journal(ctx, "replay", run, "--graph", graph, *(["--json"] if as_json else []))
