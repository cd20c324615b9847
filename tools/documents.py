"""Collections of documents in LanceDB: added whole, searched by words and by meaning, cited by offset.

One table for each collection, one row for each passage. A document comes, changes and goes in a single commit
of its table, so that a process that is killed leaves the old document or the new one, never a part.
"""

import asyncio
import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from manta.errors import InvalidInput, ModelError
from manta.messages import Passage
from manta.protocols import Embedder
from tools.document_text import extract
from tools.passage_tables import PassageTables, Row
from tools.passages import split

T = TypeVar("T")

EMBED_BATCH = 64
MAX_LIMIT = 100
MAX_QUERY = 4000
RANK_CONSTANT = 60
"""The usual constant of reciprocal rank fusion (Cormack et al., 2009): large enough that two rankings that
agree beat one that is sure."""

_COLLECTION = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class AddedDocument:
    """`unchanged`: the same bytes were there already and nothing was written."""

    document: str
    passages: int
    sha256: str
    unchanged: bool


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    name: str
    documents: int
    passages: int


@dataclass(frozen=True, slots=True)
class DocumentInfo:
    """`sha256` of the bytes that were added; `media_type` as the caller gave it, or empty."""

    document: str
    passages: int
    sha256: str
    media_type: str


class DocumentStore:
    """All collections under one folder. Use it from one process; calls may overlap freely.

    The constructor opens nothing. Failures of the disk are raised as StorageUnavailable.
    """

    def __init__(self, folder: Path, embedder: Embedder) -> None:
        self._tables = PassageTables(folder)
        self._embedder = embedder
        # One thread writes: the order of commits is the order of calls, even of calls whose caller went away.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="documents-write")

    async def add(
        self, collection: str, document: str, data: bytes, media_type: str | None = None
    ) -> AddedDocument:
        """Add a document, or replace the one of this name.

        Args:
            document: its name, unique in the collection; a relative path, say.
            media_type: as in a Content-Type header; None goes by the name's ending.

        Raises:
            UnreadableDocument: no text can be had from it; what was there before stays.
            Conflict: the collection was made with another embedding model.
            InvalidInput: a name that cannot be used.
        """
        _check_collection(collection)
        _check_document(document)
        sha256 = hashlib.sha256(data).hexdigest()
        held = await asyncio.to_thread(self._tables.held, collection, document)
        if held is not None and held.sha256 == sha256:
            return AddedDocument(document, held.passages, sha256, unchanged=True)
        text = await asyncio.to_thread(extract, document, data, media_type)
        rows = await asyncio.to_thread(_rows, document, text, sha256, media_type or "")
        vectors = await self._embed(row.text for row in rows)
        await self._write(self._tables.replace, collection, document, rows, vectors)
        return AddedDocument(document, len(rows), sha256, unchanged=False)

    async def search(self, collection: str, query: str, limit: int = 8) -> list[Passage]:
        """The passages that fit a query best, best first: by its words and by its meaning, ranks fused.

        The score only orders the passages of one answer. The query is plain words; no syntax is interpreted.

        Raises:
            NotFound: no such collection.
            InvalidInput: an empty or very long query, or a limit outside 1 to 100.
        """
        _check_collection(collection)
        if not query.strip() or len(query) > MAX_QUERY:
            raise InvalidInput(
                f"the query has {len(query.strip())} characters", fix=f"give one of 1 to {MAX_QUERY}"
            )
        if not 1 <= limit <= MAX_LIMIT:
            raise InvalidInput(f"limit is {limit}", fix=f"give one of 1 to {MAX_LIMIT}")
        await asyncio.to_thread(self._tables.require, collection)
        (vector,) = await self._embed([query])
        depth = max(24, 4 * limit)
        words, meaning = await asyncio.to_thread(self._tables.rankings, collection, query, vector, depth)
        return fuse([words, meaning])[:limit]

    async def collections(self) -> list[CollectionInfo]:
        """Every collection that has a document, by name."""
        return await asyncio.to_thread(self._collections)

    async def documents(self, collection: str) -> list[DocumentInfo]:
        """By name. Raises NotFound: no such collection."""
        _check_collection(collection)
        await asyncio.to_thread(self._tables.require, collection)
        found = await asyncio.to_thread(self._tables.overview, collection)
        return [DocumentInfo(name, d.passages, d.sha256, d.media_type) for name, d in sorted(found.items())]

    async def names(self, collection: str) -> list[str]:
        """The documents' names, in order. Raises NotFound: no such collection."""
        return [found.document for found in await self.documents(collection)]

    async def text(self, collection: str, document: str) -> str:
        """The whole text that a document's passages point into. Raises NotFound."""
        _check_collection(collection)
        return await asyncio.to_thread(self._tables.text, collection, document)

    async def delete(self, collection: str, document: str) -> None:
        """Remove a document; a collection goes with its last one. Raises NotFound."""
        _check_collection(collection)
        await self._write(self._tables.delete, collection, document)

    async def _write(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work, *arguments)

    async def _embed(self, texts: Iterable[str]) -> list[list[float]]:
        wanted, size = list(texts), self._embedder.dimensions
        vectors: list[list[float]] = []
        for at in range(0, len(wanted), EMBED_BATCH):
            vectors += await self._embedder.embed(wanted[at : at + EMBED_BATCH])
        if len(vectors) != len(wanted) or any(len(v) != size for v in vectors):
            raise ModelError(
                f"the embedder did not give {len(wanted)} vectors of {size} numbers",
                fix="check embedder in manta.yaml",
            )
        return vectors

    def _collections(self) -> list[CollectionInfo]:
        found = []
        for name in self._tables.names():
            documents = self._tables.overview(name)
            if documents:
                found.append(
                    CollectionInfo(name, len(documents), sum(d.passages for d in documents.values()))
                )
        return found


def fuse(rankings: Sequence[Sequence[Passage]]) -> list[Passage]:
    """Reciprocal rank fusion: each ranking gives a passage 1 / (60 + rank). Ties go by document and place."""
    scores: dict[str, float] = {}
    passages: dict[str, Passage] = {}
    for ranking in rankings:
        for rank, passage in enumerate(ranking, 1):
            passages[passage.id] = passage
            scores[passage.id] = scores.get(passage.id, 0.0) + 1 / (RANK_CONSTANT + rank)
    ordered = sorted(passages.values(), key=lambda p: (-scores[p.id], p.document, p.start))
    return [Passage(p.id, p.document, p.start, p.end, p.text, scores[p.id], p.source) for p in ordered]


def _rows(document: str, text: str, sha256: str, media_type: str) -> list[Row]:
    """One row a passage. Each keeps the white space before it: together they are the whole text."""
    spans = split(text)
    rows, at = [], 0
    for span in spans:
        last = span is spans[-1]
        rows.append(
            Row(
                id=_passage_id(document, span.start, text[span.start : span.end]),
                document=document,
                start=span.start,
                end=span.end,
                text=text[span.start : span.end],
                before=text[at : span.start],
                after=text[span.end :] if last else "",
                sha256=sha256,
                media_type=media_type,
            )
        )
        at = span.end
    return rows


def _passage_id(document: str, start: int, text: str) -> str:
    """The same passage at the same place keeps its id when its document is added again."""
    return "p" + hashlib.sha256(f"{document}\0{start}\0{text}".encode()).hexdigest()[:16]


def _check_collection(name: str) -> None:
    if not _COLLECTION.fullmatch(name):
        raise InvalidInput(
            f"{name[:80]!r} cannot name a collection",
            fix="use up to 63 of a-z, 0-9, - and _, the first a letter or digit",
        )


def _check_document(name: str) -> None:
    strange = any(unicodedata.category(c) in ("Cc", "Cs") for c in name)
    if not name.strip() or len(name) > 1024 or strange:
        raise InvalidInput(
            f"{name[:80]!r} cannot name a document",
            fix="use 1 to 1,024 characters without control characters",
        )
