"""Commands that work on the journal itself: each is a process of the coordinator's, with or without a platform."""

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import typer

from manta.cli.common import session
from manta.errors import PlatformError


def run_on_journal(ctx: Any, command: str, *words: str, arguments: Sequence[str] = ()) -> None:
    """`python -m coordinator COMMAND` with this command line's settings; ends as that process does. `ctx` is Typer's.

    Args:
        command: the command, or a command and its sub-command.
        arguments: what may begin with a dash without being an option.

    Raises:
        PlatformError: only the client is installed here.
    """
    if find_spec("coordinator") is None:
        raise PlatformError(
            "this installation has only the client", fix="pip install 'manta[platform]', or ask where it runs"
        )
    given = session(ctx)
    line = [sys.executable, "-m", "coordinator", *command.split(), *words]
    if given.config is not None:
        line += ["--config", str(given.config.resolve())]
    if given.home is not None:
        line += ["--home", str(given.home)]
    line += ["--", *arguments] if arguments else []
    ended = subprocess.run(line, check=False)
    if ended.returncode:
        raise typer.Exit(ended.returncode)
