"""/v1/files: requests for batches, and what came of them."""

import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse

from manta.errors import InvalidInput, NotFound
from serve_app.gateway.bodies import MAX_BATCH_FILE_BYTES
from serve_app.gateway.deps import Desk, DeskDep
from serve_app.gateway.downloads import DOWNLOAD, FILE_ANSWER
from serve_app.gateway.errors import BadField, OpenAIErrorJson, declared
from serve_app.gateway.openai.batch_lines import JSONL
from serve_app.gateway.openai.batch_results import result_file, result_json, result_lines
from serve_app.gateway.openai.file_records import (
    StoredFile,
    every_file,
    find,
    forget,
    keep,
    kept_before,
    not_found,
)
from serve_app.gateway.openai.lists import page
from serve_app.gateway.openai.routing import TAKING, openai_router
from serve_app.gateway.openai.upload import Upload, read_upload
from serve_app.gateway.repeats import RequestKey, gone, made_id

PURPOSE = "batch"
_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {"type": "string", "format": "binary", "minLength": 1},
                        "purpose": {"type": "string", "enum": [PURPOSE]},
                    },
                }
            }
        },
    }
}

router = openai_router()
Limit = Annotated[int, Query(ge=1, le=10_000)]
Order = Literal["asc", "desc"]


@router.post("/files", openapi_extra=_FORM, responses={**TAKING, **declared(422, shape=OpenAIErrorJson)})
async def create_file(request: Request, desk: DeskDep, key: RequestKey) -> dict[str, Any]:
    """A file of requests, one a line, for `POST /v1/batches`."""
    with tempfile.TemporaryDirectory(prefix="manta-upload-") as folder:
        path = Path(folder) / "upload"
        upload = await read_upload(request, path)
        name = _checked(upload)
        kept = await desk.platform.artifacts.put(path, name, JSONL)
    made_at = int(desk.platform.clock.now())
    file = StoredFile(f"file-{made_id(desk, 'file', key)}", name, kept.sha256, kept.size, made_at)
    known = await kept_before(desk, file)
    if known is None:
        await keep(desk, file)
    return (known or file).told()


def _checked(upload: Upload) -> str:
    """The file's name. Raises BadField."""
    for name in ("file", "purpose"):
        if upload.filename is None if name == "file" else name not in upload.fields:
            code = "missing_required_parameter"
            raise BadField(f"{name} is missing", fix="send it in the form", code=code, param=name)
    for name in upload.fields:
        if name != "purpose":
            known = name.startswith("expires_after")
            code = "unsupported_parameter" if known else "unknown_parameter"
            raise BadField(f"{name} is not known", fix="leave it out", code=code, param=name)
    if upload.fields["purpose"] != PURPOSE:
        raise BadField("files are for batches here", fix=f"purpose={PURPOSE}", param="purpose")
    if not upload.size:
        raise BadField("the file is empty", fix="send a line for each request", param="file")
    if upload.size > MAX_BATCH_FILE_BYTES:
        raise BadField(f"the file is over {MAX_BATCH_FILE_BYTES >> 20} MiB", fix="split it", param="file")
    assert upload.filename is not None
    return upload.filename


@router.get("/files")
async def list_files(
    desk: DeskDep,
    purpose: str | None = None,
    limit: Limit = 10_000,
    order: Order = "desc",
    after: str | None = None,
) -> dict[str, Any]:
    """Uploaded files, newest first. Those that batches leave are named by the batches."""
    if purpose not in (None, PURPOSE):
        raise BadField(
            "only uploaded files are listed", fix=f"purpose={PURPOSE}; a batch names its own", param="purpose"
        )
    files = [file.told() for file in await every_file(desk)]
    return page(files if order == "desc" else files[::-1], limit, after)


@router.get("/files/{file_id}")
async def retrieve_file(file_id: str, desk: DeskDep) -> dict[str, Any]:
    result = await result_file(desk, file_id)
    if result is not None:
        return result_json(*result)
    return (await find(desk, file_id)).told()


@router.get("/files/{file_id}/content", response_class=Response, responses=FILE_ANSWER)
async def retrieve_file_content(file_id: str, desk: DeskDep) -> Response:
    result = await result_file(desk, file_id)
    if result is not None:
        return StreamingResponse(result_lines(desk, *result), headers=DOWNLOAD)
    return Response(await _content(desk, file_id), headers=DOWNLOAD)


async def _content(desk: Desk, file_id: str) -> bytes:
    file = await find(desk, file_id)
    try:
        return await desk.platform.artifacts.get(file.ref)
    except NotFound:
        raise not_found(file_id) from None


@router.delete("/files/{file_id}")
async def delete_file(file_id: str, desk: DeskDep) -> dict[str, Any]:
    """An uploaded one; a batch that reads it goes on. Those that a batch leaves go with its run."""
    if await result_file(desk, file_id) is not None:
        raise InvalidInput("the file is a batch's", fix="delete the batch's run: DELETE /runs/ID")
    await gone(forget(desk, await find(desk, file_id)))
    return {"id": file_id, "object": "file", "deleted": True}
