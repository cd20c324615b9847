"""`manta`: the entry point, its global options and the list of commands."""

from pathlib import Path
from typing import Annotated

import typer

from manta import __version__
from manta.cli import (
    approvals,
    batch,
    chat,
    control,
    docs,
    doctor,
    gc,
    gpus,
    keys,
    models,
    platform,
    replay,
    run,
    runs,
    schedules,
    threads,
)
from manta.cli.common import ErrorLines, Session, say

EXAMPLES = """\
Multi-agent orchestration on Ray: durable runs, checked reports, your own models.

[bold]First steps[/bold]

  manta doctor                                    is this machine fit?
  manta run "What limits throughput?" --docs notes/ --data load.csv
  manta runs                                      what ran
  manta approvals                                 what waits for you
  manta down                                      stop everything

[bold]Exit status[/bold]

  0 done · 1 an error, in one line on stderr · 2 wrong usage · 3 it waits for a person · 130 interrupted
"""

app = typer.Typer(
    cls=ErrorLines,
    help=EXAMPLES,
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        say(f"manta {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    ctx: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Settings file. Default: manta.yaml of this folder.")
    ] = None,
    home: Annotated[
        Path | None, typer.Option("--home", help="Where journal, documents and logs are. Default: ~/.manta")
    ] = None,
    url: Annotated[str, typer.Option("--url", help="A platform elsewhere, http://host:port.")] = "",
    api_key_env: Annotated[
        str,
        typer.Option(
            "--api-key-env",
            metavar="NAME",
            help="Environment variable that holds its key. Default: MANTA_API_KEY.",
        ),
    ] = "",
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    ctx.obj = Session(config, home, url, api_key_env)


app.command("run", rich_help_panel="Work")(run.run)
app.command("chat", rich_help_panel="Work")(chat.chat)
app.command("batch", rich_help_panel="Work")(batch.batch)
app.add_typer(docs.app, name="docs", rich_help_panel="Work")
app.add_typer(threads.app, name="threads", rich_help_panel="Work")
app.add_typer(schedules.app, name="schedules", rich_help_panel="Work")
app.command("runs", rich_help_panel="Runs")(runs.runs)
app.command("show", rich_help_panel="Runs")(runs.show)
app.command("cancel", rich_help_panel="Runs")(runs.cancel)
app.command("logs", rich_help_panel="Runs")(runs.logs)
app.command("approvals", rich_help_panel="Runs")(approvals.approvals)
app.command("approve", rich_help_panel="Runs")(approvals.approve)
app.command("fork", rich_help_panel="Runs")(control.fork)
app.command("resume", rich_help_panel="Runs")(control.resume)
app.command("feedback", rich_help_panel="Runs")(control.feedback)
app.command("replay", rich_help_panel="Runs")(replay.replay)
app.command("up", rich_help_panel="Platform")(platform.up)
app.command("down", rich_help_panel="Platform")(platform.down)
app.command("status", rich_help_panel="Platform")(platform.status)
app.command("doctor", rich_help_panel="Platform")(doctor.doctor)
app.command("gc", rich_help_panel="Platform")(gc.gc)
app.command("gpus", rich_help_panel="Platform")(gpus.gpus)
app.add_typer(models.app, name="models", rich_help_panel="Platform")
app.add_typer(keys.app, name="keys", rich_help_panel="Platform")


def main() -> None:
    app()


if __name__ == "__main__":
    main()
