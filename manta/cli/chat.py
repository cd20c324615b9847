"""`manta chat`: one question, or a conversation, with a model or a graph."""

import sys
from typing import Annotated

import typer

from manta.cli.common import out, say, session
from manta.client import Client
from manta.messages import ChatMessage


def chat(
    ctx: typer.Context,
    text: Annotated[str, typer.Argument(help="What to say; without it a conversation.")] = "",
    model: Annotated[
        str, typer.Option("--model", "-m", help="A model or a graph. Default: the platform's.")
    ] = "",
    system: Annotated[str, typer.Option(help="Instructions for the model.")] = "",
) -> None:
    """Talk to a model of the platform, or to a graph by its name. An empty line or Ctrl-D ends.

    Example: manta chat "What is a KV cache?"
    """
    history = [ChatMessage("system", system)] if system else []
    with session(ctx).client() as client:
        if text:
            _reply(client, [*history, ChatMessage("user", text)], model)
            return
        while line := _read_line():
            history.append(ChatMessage("user", line))
            history.append(ChatMessage("assistant", _reply(client, history, model)))


def _reply(client: Client, history: list[ChatMessage], model: str) -> str:
    console, pieces = out(), list[str]()
    for piece in client.chat(history, model or None, stream=True):
        pieces.append(piece)
        console.print(piece, end="", markup=False)
    say("")
    return "".join(pieces)


def _read_line() -> str:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""
