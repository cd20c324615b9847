"""Finds `manta ...` in text and parses it with the command line's own parser, without running anything."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import typer

from manta.cli.main import app

_ASSIGNMENT = re.compile(r"[A-Z_][A-Z0-9_]*=")
_SEPARATORS = frozenset({";", "&&", "||", "|", "&"})


def command_lines(shell: str) -> Iterator[list[str]]:
    """The arguments of each `manta` in a shell text, also of one inside quotes for another command."""
    for line in shell.replace("\\\n", " ").splitlines():
        if "manta" in line:
            yield from _of_line(line)


def _of_line(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word not in _SEPARATORS:
            words.append(word)
            continue
        while words and _ASSIGNMENT.match(words[0]):
            words.pop(0)
        if words and words[0].rsplit("/", 1)[-1] == "manta":
            yield words[1:]
        else:
            for inner in words:
                if inner.startswith("manta ") or "; manta " in inner:
                    yield from _of_line(inner)
        words = []


def refusal(arguments: list[str]) -> str:
    """Why the command line would not accept these arguments; empty when it would."""
    command: Any = typer.main.get_command(app)
    parent: Any = None
    name, rest = "manta", list(arguments)
    try:
        while True:
            context = command.make_context(name, rest, parent=parent)
            if not hasattr(command, "commands"):
                return ""
            # The parser keeps the sub-command's name apart from what follows it.
            rest = [*getattr(context, "_protected_args", ()), *context.args]
            name, command, rest = command.resolve_command(context, rest)
            parent = context
    except typer.Exit:
        return ""
    except Exception as error:  # The parser's own errors are not public; any of them is a refusal.
        return getattr(error, "message", "") or f"{type(error).__name__}: {error}"


def commands() -> dict[str, Any]:
    found: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return found
