"""`manta threads`: conversations over runs."""

from typing import Annotated, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from manta.cli.common import ErrorLines, say, say_json, say_table, session
from manta.messages import to_json
from manta.wire import Thread

app = typer.Typer(
    cls=ErrorLines, no_args_is_help=True, help="Conversations over runs: list, new, show, copy, delete."
)

Json = Annotated[bool, typer.Option("--json", help="For programs.")]
ThreadArgument = Annotated[str, typer.Argument(metavar="THREAD", help="The thread's id.", show_default=False)]


@app.command("list")
def list_(
    ctx: typer.Context,
    status: Annotated[str, typer.Option(help="idle, busy, interrupted or error.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000)] = 20,
    as_json: Json = False,
) -> None:
    """List threads, newest first."""
    with session(ctx).client() as client:
        found = client.threads.search(status=status or None, limit=limit)
    if as_json:
        for thread in found:
            say_json(_plain(thread))
        return
    if not found:
        say("no threads yet; begin one: manta chat --graph support_chat")
        return
    table = Table(
        Column("thread", no_wrap=True, min_width=36),
        "status",
        "messages",
        "changed",
        "last",
        box=None,
        pad_edge=False,
    )
    for thread in found:
        last = text_of(thread.messages[-1]) if thread.messages else ""
        changed = thread.updated_at.astimezone().strftime("%m-%d %H:%M:%S")
        gist = Text(" ".join(last.split()), overflow="ellipsis", no_wrap=True)
        table.add_row(thread.id, thread.status, str(len(thread.messages)), changed, gist)
    say_table(table)


@app.command()
def new(ctx: typer.Context) -> None:
    """Make a thread and say its id, for `manta run --thread ID`."""
    with session(ctx).client() as client:
        say(client.threads.create(metadata={"source": "cli"}).id)


@app.command()
def show(ctx: typer.Context, thread_id: ThreadArgument, as_json: Json = False) -> None:
    """Show what was said in a thread."""
    with session(ctx).client() as client:
        thread = client.threads.get(thread_id)
    if as_json:
        say_json(_plain(thread))
        return
    say(f"thread  {thread.id}")
    say(f"status  {thread.status}")
    for message in thread.messages:
        say(f"{message.get('role', '')}: {text_of(message)}")


@app.command()
def copy(ctx: typer.Context, thread_id: ThreadArgument) -> None:
    """Make a thread of its own with the same messages, and say its id."""
    with session(ctx).client() as client:
        say(client.threads.copy(thread_id).id)


@app.command()
def delete(ctx: typer.Context, thread_id: ThreadArgument) -> None:
    """Delete a thread; its runs stay."""
    with session(ctx).client() as client:
        client.threads.delete(thread_id)
    say(f"deleted {thread_id}")


def text_of(message: dict[str, Any]) -> str:
    """What a message says; of a list of parts the texts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def _plain(thread: Thread) -> dict[str, Any]:
    times = {name: getattr(thread, name).isoformat() for name in ("created_at", "updated_at")}
    return {**to_json(thread), **times}
