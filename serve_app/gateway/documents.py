"""Document collections that agents search, and files that runs take and make."""

import re
import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from manta.errors import InvalidInput
from manta.messages import ArtifactRef, to_json
from serve_app.gateway.bodies import StrictRoute
from serve_app.gateway.deps import PlatformDep

_SHA256 = re.compile("[0-9a-f]{64}")

router = APIRouter(tags=["documents"], route_class=StrictRoute)


class DocumentSearch(BaseModel):
    query: str = Field(min_length=1, max_length=4000)
    limit: int = Field(8, ge=1, le=100)


@router.put("/collections/{collection}/documents/{document:path}")
async def add_document(
    collection: str, document: str, request: Request, platform: PlatformDep
) -> dict[str, Any]:
    body = await _body(request)
    kind = request.headers.get("content-type")
    added = await platform.documents.add(collection, document, body, kind)
    return dict(to_json(added))


@router.get("/collections")
async def list_collections(platform: PlatformDep) -> list[Any]:
    return list(to_json(await platform.documents.collections()))


@router.get("/collections/{collection}/documents")
async def list_documents(collection: str, platform: PlatformDep) -> list[Any]:
    return list(to_json(await platform.documents.documents(collection)))


@router.delete("/collections/{collection}/documents/{document:path}", status_code=204)
async def delete_document(collection: str, document: str, platform: PlatformDep) -> Response:
    await platform.documents.delete(collection, document)
    return Response(status_code=204)


@router.post("/collections/{collection}/search")
async def search_documents(collection: str, body: DocumentSearch, platform: PlatformDep) -> list[Any]:
    return list(to_json(await platform.documents.search(collection, body.query, body.limit)))


@router.post("/files")
async def add_file(
    request: Request, platform: PlatformDep, name: Annotated[str, Query(min_length=1, max_length=255)]
) -> dict[str, Any]:
    title = Path(name).name
    if title in ("", "..") or "\0" in title:
        raise InvalidInput(f"{name[:100]!r} is no name of a file", fix="name=data.csv")
    body = await _body(request)
    kind = request.headers.get("content-type") or "application/octet-stream"
    with tempfile.TemporaryDirectory(prefix="manta-upload-") as folder:
        path = Path(folder) / "upload"
        path.write_bytes(body)
        ref = await platform.artifacts.put(path, title, kind)
    return dict(to_json(ref))


@router.get("/files/{sha256}")
async def get_file(sha256: str, platform: PlatformDep) -> Response:
    if not _SHA256.fullmatch(sha256):
        raise InvalidInput("a file is named by its SHA-256 in hex")
    body = await platform.artifacts.get(ArtifactRef("", sha256, 0, ""))
    # Never rendered by a browser: what a run made is not to be trusted as a page of this origin.
    headers = {"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"}
    return Response(body, media_type="application/octet-stream", headers=headers)


async def _body(request: Request) -> bytes:
    body = await request.body()
    if not body:
        raise InvalidInput("the body is empty", fix="send the file's bytes")
    return body
