"""A file that comes in a form (`multipart/form-data`), written to the disk while it comes."""

import asyncio
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from serve_app.gateway.errors import BadField, Unreadable

FILE = "file"
MAX_FIELDS = 8
MAX_FIELD_BYTES = 1024
MAX_NAME = 80


@dataclass(slots=True)
class Upload:
    """`fields`: what the form says besides, by name; None as `filename`: no file came."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    size: int = 0


async def read_upload(request: Request, path: Path) -> Upload:
    """Reads the form; its part `file` goes to `path`.

    Raises:
        Unreadable: it is no form. BadField: a part is there twice, or the file has no usable name.
    """
    form = await _form(request)
    try:
        _refuse_twice(form)
        upload = Upload()
        for name, part in form.multi_items():
            if not isinstance(part, UploadFile):
                upload.fields[name[:MAX_NAME]] = part
            elif name == FILE:
                upload.filename = _file_name(part.filename)
                upload.size = await asyncio.to_thread(_copy, part, path)
            else:
                raise BadField(
                    f"{name[:MAX_NAME]} is no file here", fix="send it as a field", param=name[:MAX_NAME]
                )
        return upload
    finally:
        await form.close()


async def _form(request: Request) -> FormData:
    kind, _, rest = request.headers.get("content-type", "").partition(";")
    if kind.strip().lower() != "multipart/form-data" or "boundary=" not in rest:
        raise Unreadable(
            "the body is no form with a boundary",
            status=415,
            code="unsupported_media_type",
            fix="send multipart/form-data",
        )
    try:
        return await request.form(max_files=2, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise Unreadable(
            f"the form cannot be read: {error.detail}", code="invalid_form", fix="send multipart/form-data"
        ) from None


def _refuse_twice(form: FormData) -> None:
    for name, count in Counter(name for name, _ in form.multi_items()).items():
        if count > 1:
            raise BadField(f"{name[:MAX_NAME]} is there twice", fix="send it once", param=name[:MAX_NAME])


def _copy(part: UploadFile, path: Path) -> int:
    with path.open("wb") as file:
        shutil.copyfileobj(part.file, file, 1 << 20)
        return file.tell()


def _file_name(told: str | None) -> str:
    name = PurePath((told or "").replace("\\", "/")).name
    if name in ("", "..") or not name.isprintable() or len(name) > 255:
        raise BadField("the file has no usable name", fix="send filename=requests.jsonl", param=FILE)
    return name
