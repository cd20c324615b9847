"""Document collections that agents search, and files that runs take and make."""

import tempfile
from pathlib import Path as Place
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field

from manta.errors import InvalidInput
from manta.messages import ArtifactRef, Passage
from serve_app.gateway.bodies import StrictRoute
from serve_app.gateway.body_types import WHOLE, OwnBody
from serve_app.gateway.deps import PlatformDep
from serve_app.gateway.downloads import DOWNLOAD, FILE_ANSWER
from serve_app.gateway.errors import READING, TAKING, declared
from tools.documents import AddedDocument, CollectionInfo, DocumentInfo

_BYTES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary", "minLength": 1}}
        },
    }
}
"""What an OpenAPI document says of a route that takes a file as it is; the content type is the file's own."""

router = APIRouter(tags=["documents"], route_class=StrictRoute, responses=READING)

CollectionName = Annotated[
    str, Path(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="Lower-case letters, digits, `-`, `_`.")
]


class DocumentSearch(OwnBody):
    query: Annotated[str, Field(min_length=1, max_length=4000)]
    limit: Annotated[int, Field(ge=1, le=100), WHOLE] = 8


@router.put(
    "/collections/{collection}/documents/{document:path}",
    openapi_extra=_BYTES,
    responses={**TAKING, **declared(409)},
)
async def add_document(
    collection: CollectionName, document: str, request: Request, platform: PlatformDep
) -> AddedDocument:
    body = await _body(request)
    kind = request.headers.get("content-type")
    return await platform.documents.add(collection, document, body, kind)


@router.get("/collections")
async def list_collections(platform: PlatformDep) -> list[CollectionInfo]:
    return await platform.documents.collections()


@router.get("/collections/{collection}/documents")
async def list_documents(collection: CollectionName, platform: PlatformDep) -> list[DocumentInfo]:
    return await platform.documents.documents(collection)


@router.delete(
    "/collections/{collection}/documents/{document:path}", status_code=204, response_class=Response
)
async def delete_document(collection: CollectionName, document: str, platform: PlatformDep) -> Response:
    await platform.documents.delete(collection, document)
    return Response(status_code=204)


@router.post("/collections/{collection}/search", responses=TAKING)
async def search_documents(
    collection: CollectionName, body: DocumentSearch, platform: PlatformDep
) -> list[Passage]:
    return await platform.documents.search(collection, body.query, body.limit)


@router.post("/files", openapi_extra=_BYTES, responses=TAKING)
async def add_file(
    request: Request, platform: PlatformDep, name: Annotated[str, Query(min_length=1, max_length=255)]
) -> ArtifactRef:
    title = PurePath(name).name
    if title in ("", "..") or "\0" in title:
        raise InvalidInput(f"{name[:100]!r} is no name of a file", fix="name=data.csv")
    body = await _body(request)
    kind = request.headers.get("content-type") or "application/octet-stream"
    with tempfile.TemporaryDirectory(prefix="manta-upload-") as folder:
        path = Place(folder) / "upload"
        path.write_bytes(body)
        return await platform.artifacts.put(path, title, kind)


@router.get("/files/{sha256}", response_class=Response, responses=FILE_ANSWER)
async def get_file(sha256: Annotated[str, Path(pattern="^[0-9a-f]{64}$")], platform: PlatformDep) -> Response:
    body = await platform.artifacts.get(ArtifactRef("", sha256, 0, ""))
    return Response(body, headers=DOWNLOAD)


async def _body(request: Request) -> bytes:
    body = await request.body()
    if not body:
        raise InvalidInput("the body is empty", fix="send the file's bytes")
    return body
