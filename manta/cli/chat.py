"""`manta chat`: one question, or a conversation, with a model or with a graph that is made for it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from manta.cli import inputs
from manta.cli.asking import WAITS, say_waiting
from manta.cli.common import out, say, session
from manta.cli.threads import text_of
from manta.client import Client
from manta.errors import InvalidInput, NotFound
from manta.messages import ChatMessage


def chat(
    ctx: typer.Context,
    text: Annotated[str, typer.Argument(help="What to say; without it a conversation.")] = "",
    model: Annotated[str, typer.Option("--model", "-m", help="A model. Default: the platform's.")] = "",
    system: Annotated[str, typer.Option(help="Instructions for the model.")] = "",
    graph: Annotated[
        str, typer.Option("--graph", "-g", help="A graph made for conversations, such as support_chat.")
    ] = "",
    docs: Annotated[
        Path | None, typer.Option(help="Folder of documents that the graph answers from.")
    ] = None,
    thread: Annotated[str, typer.Option("--thread", help="Go on with this conversation of the graph.")] = "",
) -> None:
    """Talk to a model of the platform, or to a graph. An empty line or Ctrl-D ends.

    A graph's conversation is a thread: it is kept, and `--thread` goes on with it.

    Examples:

      manta chat "What is a KV cache?"

      manta chat --graph support_chat --docs handbook/
    """
    if graph and (model or system):
        raise InvalidInput(
            "a graph brings its own model and instructions", fix="leave --model and --system out"
        )
    if not graph and (docs or thread):
        raise InvalidInput("a model has no documents and no threads", fix="--graph support_chat")
    if docs is not None:
        inputs.documents_in(docs)
    with session(ctx).client() as client:
        said = [text] if text else _lines()
        if graph:
            _converse(client, said, graph, docs, thread)
            return
        history = [ChatMessage("system", system)] if system else []
        for line in said:
            history.append(ChatMessage("user", line))
            history.append(ChatMessage("assistant", _reply(client, history, model)))


def _lines() -> Iterator[str]:
    while line := _read_line():
        yield line


def _reply(client: Client, history: list[ChatMessage], model: str) -> str:
    console, pieces = out(), list[str]()
    for piece in client.chat(history, model or None, stream=True):
        pieces.append(piece)
        console.print(piece, end="", markup=False)
    say("")
    return "".join(pieces)


def _converse(client: Client, said: Any, graph: str, docs: Path | None, thread: str) -> None:
    _require_chat(client, graph)
    more: dict[str, Any] = {}
    if docs is not None:
        more["collection"] = inputs.ingest(client, docs, lambda line: say(line, to_stderr=True)).collection
    thread = thread or client.threads.create(metadata={"source": "cli", "graph": graph}).id
    for line in said:
        message = {"role": "user", "content": line}
        run = client.submit(graph, {"messages": [message], **more}, thread=thread, metadata={"source": "cli"})
        result = client.wait(run.id)
        if result.run.status == "waiting":
            say_waiting(result.run)
            raise typer.Exit(WAITS)
        if result.run.status != "success":
            raise result.run.failure()
        for answer in result.messages:
            say(text_of(answer))
    say(f"go on: manta chat --graph {graph} --thread {thread}", style="dim", to_stderr=True)


def _require_chat(client: Client, graph: str) -> None:
    made_for_it = sorted(info.name for info in client.graphs() if info.chat)
    if graph not in made_for_it:
        raise NotFound(
            f"there is no graph {graph!r} made for conversations; there are: {', '.join(made_for_it) or 'none'}",
            fix="check --graph",
            code="unknown_graph",
        )


def _read_line() -> str:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""
