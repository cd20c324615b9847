"""What every command needs: consoles, settings, the client, and errors as one line."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from manta import platform_process
from manta.client import Client
from manta.config import Settings, load_settings, secret
from manta.errors import MantaError

WIDE = 200


def out() -> Console:
    """What the user asked for. Made per use, so that a redirected stdout is honoured."""
    return Console(highlight=False, soft_wrap=True)


def err() -> Console:
    """What is said beside it."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(line: str, *, style: str = "", to_stderr: bool = False) -> None:
    """One line of plain text; brackets in it are not markup."""
    (err() if to_stderr else out()).print(Text(line, style=style))


def say_table(table: Table) -> None:
    """In a file or a pipe nothing is wrapped or cut off for want of room."""
    console = out()
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    console.print(table)


def say_json(value: Any) -> None:
    out().print(json.dumps(value, ensure_ascii=False), markup=False)


class ErrorLines(TyperGroup):
    """A group whose commands end with one line and status 1 on a MantaError."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MantaError as error:
            say(f"error: {' '.join(str(error).split())}", style="red", to_stderr=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            say("interrupted", to_stderr=True)
            raise typer.Exit(130) from None


@dataclass(slots=True)
class Session:
    """The global options of one command line, and what they lead to."""

    config: Path | None = None
    home: Path | None = None
    url: str = ""
    api_key_env: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> Settings:
        given = {"home": str(self.home)} if self.home else {}
        return load_settings(self.config, overrides={**given, **self.overrides})

    def address(self) -> str:
        """`--url`, else where this home's platform runs, else where the settings would put it."""
        if self.url:
            return self.url
        settings = self.settings()
        info = platform_process.running(settings.home)
        return info.address if info else settings.address

    def client(self) -> Client:
        return Client(self.address(), api_key=secret(self.api_key_env) if self.api_key_env else None)


def session(ctx: Any) -> Session:
    """The options given before the command's name. `ctx` is Typer's context."""
    found: Session | None = ctx.find_object(Session)
    return found if found is not None else Session()
