"""`manta gc`: lets go of old runs and files, by a process of the coordinator's."""

from typing import Annotated

import typer

from manta.cli.on_journal import run_on_journal


def gc(
    ctx: typer.Context,
    runs_days: Annotated[
        float | None, typer.Option(help="Finished runs older than this go. Default: retention.runs_days.")
    ] = None,
    calls_days: Annotated[
        float | None,
        typer.Option(help="Requests and responses older than this go. Default: retention.calls_days."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Delete what is older than the settings keep: runs, the wording of calls, files that nothing names.

    Works beside a running platform and without one; unfinished runs are never touched.

    Examples:

      manta gc --dry-run

      manta gc --runs-days 90
    """
    days = {"--runs-days": runs_days, "--calls-days": calls_days}
    words = [word for name, value in days.items() if value is not None for word in (name, str(value))]
    words += [*(["--dry-run"] if dry_run else []), *(["--json"] if as_json else [])]
    run_on_journal(ctx, "gc", *words)
