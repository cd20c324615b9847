"""What the user hands to `run`, checked before anything starts; and a folder brought into a collection."""

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manta.client import Client
from manta.errors import InvalidInput, NotFound, UnreadableData, UnreadableDocument
from manta.wire import DocumentInfo

BUDGETS = ("tokens", "model_calls", "tool_calls", "seconds", "money")
LARGEST_DOCUMENT = 32 << 20
_SAMPLE_BYTES = 1 << 20
_RAGGED = 0.1


@dataclass(frozen=True, slots=True)
class Ingested:
    """What came of a folder: the collection, documents sent, unchanged and skipped."""

    collection: str
    added: int
    unchanged: int
    skipped: int


def check_question(question: str) -> str:
    if not question.strip():
        raise InvalidInput("the question is empty", fix='manta run "your question"', code="empty_question")
    return question.strip()


def check_table(path: Path) -> None:
    """Raises UnreadableData unless the file is delimited text with a header and at least one row."""
    fix = "give a CSV file: a header line, then rows with the same columns"
    try:
        sample = path.read_bytes()[:_SAMPLE_BYTES]
    except OSError as error:
        raise UnreadableData(f"cannot read {path}: {error.strerror}", fix="check the path") from None
    if b"\0" in sample:
        raise UnreadableData(f"{path} is not a CSV table: it is binary", fix=fix)
    text = sample.decode("utf-8-sig", errors="replace")
    causes = [_not_a_table(text, delimiter) for delimiter in ",;\t|"]
    if all(causes):
        raise UnreadableData(f"{path} is not a CSV table: {causes[0]}", fix=fix)


def _not_a_table(text: str, delimiter: str) -> str:
    """Why text is no table with this delimiter; empty when it is one."""
    try:
        rows = [
            row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(c.strip() for c in row)
        ]
    except csv.Error as error:
        return str(error)
    if not rows:
        return "it is empty"
    if len(rows) < 2:
        return "it has no row below its header"
    if len(rows[0]) < 2:
        return "it has one column only"
    ragged = sum(len(row) != len(rows[0]) for row in rows)
    return "its lines do not have the same columns" if ragged > _RAGGED * len(rows) else ""


def read_json_object(text: str, option: str = "--input") -> dict[str, Any]:
    """An option's JSON text, or `@file`."""
    data = read_json(text, option, "give an object, '{\"key\": 1}', or @file")
    if not isinstance(data, dict):
        raise InvalidInput(f"{option} must be a JSON object", fix="'{\"key\": 1}'")
    return data


def read_json(text: str, option: str, fix: str = "give JSON, such as '\"text\"', or @file") -> Any:
    """An option's JSON text, or `@file`."""
    try:
        source = Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
        return json.loads(source)
    except OSError as error:
        raise InvalidInput(f"cannot read {text[1:]}: {error.strerror}", fix="check the path") from None
    except ValueError as error:
        raise InvalidInput(f"{option} is not JSON: {error}", fix=fix) from None


def read_budget(text: str) -> dict[str, float]:
    """`tokens=1000,seconds=60`."""
    found: dict[str, float] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, _, amount = entry.partition("=")
        try:
            number = float(amount)
        except ValueError:
            number = -1
        if name not in BUDGETS or not 0 <= number < math.inf:
            raise InvalidInput(
                f"--budget cannot be {entry!r}",
                fix=f"name=number, of {', '.join(BUDGETS)}, with commas between",
            )
        found[name] = number if name in ("seconds", "money") else int(number)
    return found


def documents_in(folder: Path) -> list[Path]:
    """The files of a folder and its folders, hidden ones aside, in a fixed order."""
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise InvalidInput(f"there is no folder {folder}", fix="check --docs", code="no_such_folder")
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not _hidden(p.relative_to(folder)))
    if not files:
        raise InvalidInput(
            f"no files in {folder}", fix="put text, Markdown, HTML or PDF files there", code="no_documents"
        )
    return files


def collection_name(folder: Path, salt: str = "") -> str:
    """A name that stays the same for the same folder, so that a second run finds its documents there."""
    place = folder.resolve()
    slug = re.sub(r"[^a-z0-9]+", "-", place.name.lower()).strip("-")[:40]
    return f"docs-{slug or 'folder'}-{hashlib.sha256(f'{place}{salt}'.encode()).hexdigest()[:8]}"


def ingest(client: Client, folder: Path, tell: Callable[[str], None]) -> Ingested:
    """Bring a folder's documents into a collection; what is there already and unchanged is not sent.

    Raises:
        UnreadableDocument: none of the files can be read.
    """
    names = {document_name(folder, file): file for file in documents_in(folder)}
    collection, known = _collection_for(client, folder, set(names))
    added = unchanged = skipped = 0
    for name, file in names.items():
        if known.get(name) == _hash_of(file):
            unchanged += 1
        elif add_or_say(client, collection, file, name, tell) is None:
            skipped += 1
        else:
            added += 1
    refuse_if_none(added + unchanged, skipped, str(folder))
    return Ingested(collection, added, unchanged, skipped)


def add_or_say(
    client: Client, collection: str, file: Path, name: str, tell: Callable[[str], None]
) -> DocumentInfo | None:
    """Add one document; one that cannot be read is told of and gives None."""
    try:
        size = file.stat().st_size
        if size > LARGEST_DOCUMENT:
            raise UnreadableDocument(f"{size >> 20} MiB is over the limit of {LARGEST_DOCUMENT >> 20} MiB")
        return client.add_document(collection, file, name)
    except OSError as error:
        tell(f"skipped {name}: {error.strerror}")
    except InvalidInput as error:
        tell(f"skipped {name}: {error.message}")
    return None


def refuse_if_none(readable: int, skipped: int, where: str) -> None:
    """Raises UnreadableDocument when not one document could be read."""
    if not readable:
        raise UnreadableDocument(
            f"none of the {skipped} files in {where} can be read",
            fix="give text, Markdown, HTML or PDF files",
        )


def _collection_for(client: Client, folder: Path, names: set[str]) -> tuple[str, dict[str, str]]:
    name = collection_name(folder)
    known = _known(client, name)
    if set(known) <= names:
        return name, known
    # A document that is gone from the folder must not be cited: these files get a collection of their own.
    name = collection_name(folder, "\n".join(sorted(names)))
    known = _known(client, name)
    return name, known


def _known(client: Client, collection: str) -> dict[str, str]:
    try:
        return {d.document: d.sha256 for d in client.documents(collection)}
    except NotFound:
        return {}


def _hash_of(file: Path) -> str:
    """The SHA-256 of a file; empty when it cannot be read, which adding it will then say."""
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError:
        return ""


def document_name(folder: Path, file: Path) -> str:
    """A document is named by its path in the folder, with slashes."""
    return file.name if folder.is_file() else file.relative_to(folder).as_posix()


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
