"""`manta docs`: collections of documents that agents search."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from manta.cli import inputs
from manta.cli.common import ErrorLines, say, say_json, say_table, session
from manta.messages import to_json
from manta.wire import CollectionInfo, DocumentInfo

app = typer.Typer(cls=ErrorLines, no_args_is_help=True, help="Document collections: add, list, search.")

Json = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command()
def add(
    ctx: typer.Context,
    collection: Annotated[str, typer.Argument(help="Its name; made if it is new.", show_default=False)],
    paths: Annotated[
        list[Path], typer.Argument(help="Files, or folders with all below.", show_default=False)
    ],
) -> None:
    """Add documents. A file with the same name replaces the one before.

    Example: manta docs add handbook notes/ paper.pdf
    """
    found = [(path, inputs.documents_in(path)) for path in paths]
    with session(ctx).client() as client:
        skipped = added = 0
        for top, files in found:
            for file in files:
                name = inputs.document_name(top, file)
                known = inputs.add_or_say(
                    client, collection, file, name, lambda line: say(line, to_stderr=True)
                )
                if known is None:
                    skipped += 1
                else:
                    added += 1
                    say(f"{known.document}: {known.passages} passages")
    inputs.refuse_if_none(added, skipped, ", ".join(map(str, paths)))
    say(f"{added} documents in {collection}, {skipped} skipped")


@app.command("list")
def list_(
    ctx: typer.Context,
    collection: Annotated[str, typer.Argument(help="List its documents; without it the collections.")] = "",
    as_json: Json = False,
) -> None:
    """List collections, or the documents of one."""
    with session(ctx).client() as client:
        found: Sequence[DocumentInfo | CollectionInfo]
        found = client.documents(collection) if collection else client.collections()
    if as_json:
        say_json(to_json(list(found)))
        return
    if not found:
        say("nothing there yet; manta docs add NAME FOLDER")
        return
    table = Table(
        "document" if collection else "collection", "documents", "passages", box=None, pad_edge=False
    )
    for item in found:
        if isinstance(item, DocumentInfo):
            table.add_row(Text(item.document), "", str(item.passages))
        else:
            table.add_row(Text(item.name), str(item.documents), str(item.passages))
    say_table(table)


@app.command()
def search(
    ctx: typer.Context,
    collection: Annotated[str, typer.Argument(show_default=False)],
    query: Annotated[str, typer.Argument(show_default=False)],
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100)] = 5,
    as_json: Json = False,
) -> None:
    """Find passages. Example: manta docs search handbook "how is load balanced" """
    with session(ctx).client() as client:
        passages = client.search_documents(collection, inputs.check_question(query), limit)
    if as_json:
        say_json(to_json(list(passages)))
        return
    for passage in passages:
        say(f"{passage.document} [{passage.start}:{passage.end}]  {passage.score:.3f}", style="bold")
        say("  " + " ".join(passage.text.split()))
    if not passages:
        say("no passage found")
