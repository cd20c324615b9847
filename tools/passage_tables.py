"""The LanceDB side of the document store: tables of passages, their commits, their rankings. Blocking."""

import dataclasses
import datetime
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manta.errors import Conflict, NotFound, StorageUnavailable
from manta.messages import Passage

TIDY_EVERY = 32
"""Commits after which small files are merged and new rows join the index; until then they are searched row by
row, which is right but slower."""
KEEP_VERSIONS = datetime.timedelta(hours=1)
"""Longer than any search reads from an old version of a table."""


@dataclass(frozen=True, slots=True)
class Row:
    """A passage as stored. `before + text + after` of a document's rows, in order, is its text."""

    id: str
    document: str
    start: int
    end: int
    text: str
    before: str
    after: str
    sha256: str
    media_type: str


@dataclass(frozen=True, slots=True)
class Held:
    """What a table holds of one document."""

    passages: int
    sha256: str
    media_type: str


class PassageTables:
    """Tables in one folder. Reads may overlap with each other and with one writer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._opening = threading.Lock()
        self._connection: Any = None
        self._commits: dict[str, int] = {}

    def names(self) -> list[str]:
        with _storage():
            return sorted(self._database().list_tables(limit=10_000).tables)

    def overview(self, collection: str) -> dict[str, Held]:
        """The documents of a collection; empty when there is no such collection."""
        with _storage():
            table = self._open(collection)
            if table is None:
                return {}
            columns = table.search().select(["document", "sha256", "media_type"]).limit(None).to_arrow()
        held: dict[str, Held] = {}
        for row in columns.to_pylist():
            before = held.get(row["document"])
            count = before.passages + 1 if before else 1
            held[row["document"]] = Held(count, row["sha256"], row["media_type"])
        return held

    def held(self, collection: str, document: str) -> Held | None:
        with _storage():
            table = self._open(collection)
            if table is None:
                return None
            query = table.search().where(f"document = {_quoted(document)}")
            rows = query.select(["sha256", "media_type"]).limit(None).to_list()
        return Held(len(rows), rows[0]["sha256"], rows[0]["media_type"]) if rows else None

    def require(self, collection: str) -> None:
        """Raises NotFound when the collection has no document."""
        with _storage():
            table = self._open(collection)
            found = table is not None and table.count_rows() > 0
        if not found:
            raise NotFound(
                f"there is no collection {collection!r}",
                fix=f"add documents: manta docs add {collection} FOLDER",
            )

    def replace(
        self, collection: str, document: str, rows: Sequence[Row], vectors: Sequence[list[float]]
    ) -> None:
        """Put a document's rows in the place of what it had before, in one commit.

        Raises:
            Conflict: the table's vectors have another size.
        """
        with _storage():
            table = self._open(collection)
            # A table's truth value is its number of rows.
            if table is None:
                table = self._create(collection, len(vectors[0]))
            size = table.schema.field("vector").type.list_size
            if size != len(vectors[0]):
                raise Conflict(
                    f"collection {collection!r} was made with an embedding model of {size} dimensions, "
                    f"this one has {len(vectors[0])}",
                    fix="delete its documents' folder and add them again, or go back to that model",
                )
            self._index(table)
            data = [{**_fields(row), "vector": vector} for row, vector in zip(rows, vectors, strict=True)]
            (
                table.merge_insert("id")
                .when_matched_update_all()
                .when_not_matched_insert_all()
                .when_not_matched_by_source_delete(f"document = {_quoted(document)}")
                .execute(_arrow().Table.from_pylist(data, schema=table.schema))
            )
            self._tidy(collection, table)

    def delete(self, collection: str, document: str) -> None:
        """Raises NotFound."""
        self.require(collection)
        if self.held(collection, document) is None:
            raise _no_document(collection, document)
        with _storage():
            table = self._open(collection)
            table.delete(f"document = {_quoted(document)}")
            self._tidy(collection, table)

    def text(self, collection: str, document: str) -> str:
        """Raises NotFound."""
        self.require(collection)
        with _storage():
            query = self._open(collection).search().where(f"document = {_quoted(document)}")
            rows = query.select(["start", "before", "text", "after"]).limit(None).to_list()
        if not rows:
            raise _no_document(collection, document)
        rows.sort(key=lambda row: row["start"])
        return "".join(row["before"] + row["text"] + row["after"] for row in rows)

    def rankings(
        self, collection: str, query: str, vector: list[float], depth: int
    ) -> tuple[list[Passage], list[Passage]]:
        """The best passages by words (BM25) and by meaning (inner product), at most `depth` of each.

        Raises:
            Conflict: the query's vector has another size than the table's.
        """
        from lancedb import query as lance

        match: Any = lance.MatchQuery
        columns = ["id", "document", "start", "end", "text"]
        with _storage():
            table = self._open(collection)
            size = table.schema.field("vector").type.list_size
            if size != len(vector):
                raise Conflict(
                    f"collection {collection!r} was made with an embedding model of {size} dimensions, "
                    f"this one has {len(vector)}",
                    fix="add its documents again, or go back to that model",
                )
            words: list[dict[str, Any]] = []
            if table.list_indices():
                # A MatchQuery takes plain words: quotes and operators in them have no meaning.
                by_words = table.search(match(query, "text"), query_type="fts").limit(depth)
                words = by_words.select([*columns, "_score"]).to_list()
            by_meaning = table.search(vector, vector_column_name="vector").distance_type("dot").limit(depth)
            meaning = by_meaning.select([*columns, "_distance"]).to_list()
        return [_passage(row) for row in words], [_passage(row) for row in meaning]

    def _database(self) -> Any:
        with self._opening:
            if self._connection is None:
                # Over a second and 50 MB that a process without documents should not pay.
                import lancedb

                self._folder.mkdir(parents=True, exist_ok=True)
                # Zero: every read sees the newest commit.
                self._connection = lancedb.connect(
                    str(self._folder), read_consistency_interval=datetime.timedelta(0)
                )
        return self._connection

    def _open(self, collection: str) -> Any:
        try:
            return self._database().open_table(collection)
        except ValueError as error:
            if "not found" in str(error):
                return None
            raise

    def _create(self, collection: str, dimensions: int) -> Any:
        pa = _arrow()
        text, offset = ("id", "document", "text", "before", "after", "sha256", "media_type"), ("start", "end")
        fields = [(name, pa.string()) for name in text] + [(name, pa.int64()) for name in offset]
        schema = pa.schema([*fields, ("vector", pa.list_(pa.float32(), dimensions))])
        return self._database().create_table(collection, schema=schema)

    def _index(self, table: Any) -> None:
        """Called on every write, as a process may have died between making a table and its index."""
        from lancedb.index import FTS

        if not table.list_indices():
            # The tokenizers that know languages without spaces lose some English words, so such languages are
            # found by meaning alone.
            table.create_index("text", config=FTS(base_tokenizer="simple", language="English"))

    def _tidy(self, collection: str, table: Any) -> None:
        count = self._commits[collection] = self._commits.get(collection, 0) + 1
        if count % TIDY_EVERY == 0:
            table.optimize(cleanup_older_than=KEEP_VERSIONS)


@contextmanager
def _storage() -> Iterator[None]:
    """LanceDB raises whatever its Rust side maps a fault to; callers see one error with the cause."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        cause = " ".join(str(error).split())[:300]
        raise StorageUnavailable(
            f"the document store failed: {cause}", fix="check the disk of the folder `documents` under home"
        ) from error


def _arrow() -> Any:
    import pyarrow

    return pyarrow


def _fields(row: Row) -> dict[str, Any]:
    return dataclasses.asdict(row)


def _passage(row: dict[str, Any]) -> Passage:
    return Passage(row["id"], row["document"], row["start"], row["end"], row["text"])


def _quoted(value: str) -> str:
    """As a string in a filter, where a quote is doubled."""
    return "'" + value.replace("'", "''") + "'"


def _no_document(collection: str, document: str) -> NotFound:
    return NotFound(
        f"there is no document {document!r} in {collection!r}", fix=f"manta docs list {collection} shows them"
    )
