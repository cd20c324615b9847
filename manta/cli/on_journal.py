"""Commands that work on the journal itself: each is a process of the coordinator's, with or without a platform."""

import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import typer

from manta.cli.common import session
from manta.errors import PlatformError


def run_on_journal(ctx: Any, command: str, *words: str) -> None:
    """`python -m coordinator COMMAND` with this command line's settings; ends as that process does. `ctx` is Typer's.

    Raises:
        PlatformError: only the client is installed here.
    """
    if find_spec("coordinator") is None:
        raise PlatformError(
            "this installation has only the client", fix="pip install 'manta[platform]', or ask where it runs"
        )
    given = session(ctx)
    line = [sys.executable, "-m", "coordinator", command, *words]
    if given.config is not None:
        line += ["--config", str(given.config.resolve())]
    if given.home is not None:
        line += ["--home", str(given.home)]
    ended = subprocess.run(line, check=False)
    if ended.returncode:
        raise typer.Exit(ended.returncode)
