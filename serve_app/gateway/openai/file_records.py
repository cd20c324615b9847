"""Files that were uploaded for batches: their content is an artifact, what is known of them an item of the store."""

from dataclasses import dataclass, replace
from typing import Any

from coordinator.store.library_records import ItemRecord
from manta.errors import IdempotencyConflict, NotFound
from manta.messages import ArtifactRef
from serve_app.gateway.deps import Desk
from serve_app.gateway.openai.batch_lines import JSONL

NAMESPACE = ("openai", "files")
PAGE = 1000
MAX_LISTED = 10_000


@dataclass(frozen=True, slots=True)
class StoredFile:
    """`created_at`: seconds since the epoch."""

    id: str
    filename: str
    sha256: str
    size: int
    created_at: int

    @property
    def ref(self) -> ArtifactRef:
        return ArtifactRef(self.filename, self.sha256, self.size, JSONL)

    def told(self) -> dict[str, Any]:
        """As OpenAI tells of it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size,
            "created_at": self.created_at,
            "expires_at": None,
            "filename": self.filename,
            "purpose": "batch",
            "status": "processed",
            "status_details": None,
        }


async def keep(desk: Desk, file: StoredFile) -> None:
    value = {
        "filename": file.filename,
        "sha256": file.sha256,
        "bytes": file.size,
        "created_at": file.created_at,
        "purpose": "batch",
    }
    await desk.library("items", "put", NAMESPACE, file.id, value)


async def find(desk: Desk, file_id: str) -> StoredFile:
    """Raises NotFound."""
    if file_id.isprintable() and 0 < len(file_id) <= 255:
        try:
            found = _read(await desk.library("items", "get", NAMESPACE, file_id))
        except NotFound:
            found = None
        if found is not None:
            return found
    raise not_found(file_id)


async def kept_before(desk: Desk, file: StoredFile) -> StoredFile | None:
    """What an earlier try of the request has left. Raises IdempotencyConflict where that is another file."""
    try:
        known = await find(desk, file.id)
    except NotFound:
        return None
    if replace(file, created_at=known.created_at) != known:
        raise IdempotencyConflict("this idempotency key was used for another file", fix="use another key")
    return known


def not_found(file_id: str) -> NotFound:
    return NotFound(f"No such File object: {file_id[:100]}", fix="GET /v1/files")


async def forget(desk: Desk, file: StoredFile) -> None:
    """Raises NotFound."""
    await desk.library("items", "delete", NAMESPACE, file.id)


async def every_file(desk: Desk) -> list[StoredFile]:
    """The newest first."""
    found: list[StoredFile] = []
    for offset in range(0, MAX_LISTED, PAGE):
        items: list[ItemRecord] = await desk.library("items", "search", NAMESPACE, {}, PAGE, offset)
        files = (_read(item) for item in items if item.namespace == NAMESPACE)
        found += [file for file in files if file is not None]
        if len(items) < PAGE:
            break
    return sorted(found, key=lambda file: (file.created_at, file.id), reverse=True)


def _read(item: ItemRecord) -> StoredFile | None:
    """None for what is no file: callers may write to the store as they like."""
    value = item.value
    try:
        file = StoredFile(item.key, value["filename"], value["sha256"], value["bytes"], value["created_at"])
    except KeyError:
        return None
    texts = isinstance(file.filename, str) and isinstance(file.sha256, str)
    return file if texts and type(file.size) is int and type(file.created_at) is int else None
