"""Files, and documents in collections."""

import hashlib
import mimetypes
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import httpx

from manta.errors import InvalidInput
from manta.messages import ArtifactRef, Passage, from_json
from manta.wire.call import Call, part
from manta.wire.values import CollectionInfo, DocumentInfo


def upload(path: Path) -> Call[ArtifactRef]:
    headers = {"Content-Type": _media_type(path.name)}
    return Call(
        "POST",
        "/files",
        lambda r: from_json(ArtifactRef, r.json()),
        content=read_file(path),
        params={"name": path.name},
        headers=headers,
        repeatable=True,
    )


def download(sha256: str) -> Call[bytes]:
    def parse(response: httpx.Response) -> bytes:
        if hashlib.sha256(response.content).hexdigest() != sha256:
            raise ValueError("the file's content does not match its hash")
        return response.content

    return Call("GET", f"/files/{part(sha256)}", parse, repeatable=True)


def add_document(collection: str, source: Path | bytes, name: str | None) -> Call[DocumentInfo]:
    if isinstance(source, bytes):
        if not name:
            raise InvalidInput("a document given as bytes needs a name", fix="pass name='notes.md'")
        title, content = name, source
    else:
        title, content = name or source.name, read_file(source)
    path = f"/collections/{part(collection)}/documents/{quote(title)}"
    headers = {"Content-Type": _media_type(title)}
    # The service splits and embeds the document before it answers.
    return Call("PUT", path, _document, content=content, headers=headers, repeatable=True, read_timeout_s=600)


def documents(collection: str) -> Call[Sequence[DocumentInfo]]:
    path = f"/collections/{part(collection)}/documents"
    return Call("GET", path, lambda r: [from_json(DocumentInfo, d) for d in r.json()], repeatable=True)


def search_documents(collection: str, query: str, limit: int) -> Call[Sequence[Passage]]:
    return Call(
        "POST",
        f"/collections/{part(collection)}/search",
        lambda r: [from_json(Passage, p) for p in r.json()],
        json={"query": query, "limit": limit},
        repeatable=True,
    )


def collections() -> Call[Sequence[CollectionInfo]]:
    return Call(
        "GET", "/collections", lambda r: [from_json(CollectionInfo, c) for c in r.json()], repeatable=True
    )


def read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"cannot read {path}: {error.strerror}", fix="check the path", code="unreadable_file"
        ) from None


def _document(response: httpx.Response) -> DocumentInfo:
    return from_json(DocumentInfo, response.json())


def _media_type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
