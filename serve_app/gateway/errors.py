"""Every error becomes JSON in one place: OpenAI's shape under /v1, the Agent Protocol's elsewhere."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Scope
from typing_extensions import TypedDict

from manta.errors import InvalidInput, MantaError, NotFound, Unauthorized, Unavailable
from manta.telemetry import get_logger

RETRY_AFTER_S = 2
SPLIT_IT = "split it"
_STATUS_CODES = {
    400: "invalid_input",
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
    415: "unsupported_media_type",
}
_THINGS = {
    "runs": "run",
    "threads": "thread",
    "store": "item",
    "schedules": "schedule",
    "files": "file",
    "collections": "document",
}

logger = get_logger("gateway")


class ErrorJson(TypedDict):
    """The Agent Protocol's `ErrorResponse`; `metadata.fix` says what the caller can do."""

    code: str
    message: str
    metadata: dict[str, Any]


class OpenAIErrorDetail(TypedDict):
    message: str
    type: str
    code: str
    param: str | None


class OpenAIErrorJson(TypedDict):
    error: OpenAIErrorDetail


class BadCursor(InvalidInput):
    """A place in a list or a stream that never was one."""

    code = "invalid_cursor"
    http_status = 400


class BadField(InvalidInput):
    """A field of a body under /v1 that cannot be used. `param` is its place, as `messages[0].content`."""

    code = "invalid_value"
    http_status = 400

    def __init__(self, message: str, *, fix: str = "", code: str | None = None, param: str = "") -> None:
        super().__init__(message, fix=fix, code=code)
        self.param = param


class Unreadable(HTTPException):
    """A body that cannot be read at all. Of all errors FastAPI lets only this kind pass from reading one."""

    def __init__(self, message: str, *, status: int = 400, code: str = "invalid_json", fix: str = "") -> None:
        super().__init__(status, message)
        self.code, self.fix = code, fix


_WORDS = {
    400: "The request cannot be read",
    401: "There is no API key, or one that does not hold",
    403: "The key has not the scope for this, or a page of another site asks",
    404: "There is no such thing for this key",
    409: "It is in another state",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "The request does not fit",
    426: "Only as a WebSocket",
    429: "Too much is queued, or a budget is used up; see `Retry-After`",
    502: "A model could not answer",
    503: "A part is away; see `Retry-After`",
    504: "A model took too long",
}


def declared(*statuses: int, shape: Any = ErrorJson) -> dict[int | str, dict[str, Any]]:
    """What an OpenAPI document says of error answers, for a router's or a route's `responses`."""
    return {status: {"model": shape, "description": _WORDS[status]} for status in statuses}


READING = declared(400, 403, 404, 422, 429, 503)
"""Errors that any route may answer with."""
TAKING = {**READING, **declared(413, 415)}
"""Those of routes with a body."""


def is_openai(path: str) -> bool:
    return path.startswith("/v1/")


def in_a_line(error: MantaError) -> str:
    """What happened and what to do, where there is one field for both."""
    return error.message + (f" ({error.fix})" if error.fix else "")


def error_body(path: str, error: MantaError, status: int = 0, code: str = "") -> dict[str, Any]:
    """`status` and `code` replace the error's own where HTTP itself has the better word."""
    code = code or error.code
    if is_openai(path):
        kind = "invalid_request_error" if (status or error.http_status) < 500 else "server_error"
        message = in_a_line(error)
        param = error.param if isinstance(error, BadField) else "model" if code == "model_not_found" else None
        return {"error": {"message": message, "type": kind, "code": code, "param": param}}
    return {"code": code, "message": error.message, "metadata": {"fix": error.fix}}


def error_response(request: HTTPConnection, error: MantaError) -> JSONResponse:
    path, status = request.scope["path"], error.http_status
    if is_openai(path) and isinstance(error, InvalidInput):
        # OpenAI answers 400 where the Agent Protocol answers 422.
        status = 400
    if error.code == NotFound.code:
        error = _nothing_there(path) or error
    return JSONResponse(error_body(path, error), status, _headers(error))


def _headers(error: MantaError) -> dict[str, str]:
    """What HTTP says beside an error's body."""
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": "Bearer"}
    if error.retry_after_s is not None:
        return {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
    return {"Retry-After": str(RETRY_AFTER_S)} if isinstance(error, Unavailable) else {}


def refusal(scope: Scope, status: int, code: str, message: str, fix: str) -> JSONResponse:
    """An answer given before there is a request."""
    return JSONResponse(error_body(scope["path"], MantaError(message, fix=fix), status, code), status)


def install(app: FastAPI) -> None:
    app.add_exception_handler(MantaError, _on_manta_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_defect)


async def _on_manta_error(request: Request, error: Any) -> JSONResponse:
    return error_response(request, error)


async def _on_invalid(request: Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    if is_openai(request.scope["path"]):
        return error_response(request, bad_body(error.errors()))
    where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
    return error_response(request, InvalidInput(f"{where}: {first['msg']}", fix="see /openapi.json"))


_OPENAI_CODES = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}
_PLACE = re.compile(r"[a-z_]+")
_KINDS_OF_UNIONS = frozenset({"str", "int", "float", "bool", "dict", "list", "nullable"})


def bad_body(errors: Sequence[Mapping[str, Any]]) -> BadField:
    """Of several things that pydantic says of a body, the one that helps most."""
    return _bad_field(_nearest(errors))


def _nearest(errors: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Where a field may be one of several kinds: the error of the kind that fits it best."""

    def fit(error: Mapping[str, Any]) -> tuple[int, bool]:
        return len(error["loc"]), not str(error["type"]).endswith("_type")

    field = errors[0]["loc"][:2]
    return max((error for error in errors if error["loc"][:2] == field), key=fit)


def _bad_field(first: Mapping[str, Any]) -> BadField:
    """One of pydantic's errors in OpenAI's words."""
    place = [part for part in first["loc"] if part != "body"]
    param = str(place[0]) if place else ""
    for part in place[1:]:
        if isinstance(part, int):
            param += f"[{part}]"
        elif _PLACE.fullmatch(part) and part not in _KINDS_OF_UNIONS:
            param += f".{part}"
    kind = str(first["type"])
    code = _OPENAI_CODES.get(kind) or ("invalid_type" if kind.endswith("_type") else BadField.code)
    message = f"Unknown parameter: '{param}'." if kind == "extra_forbidden" else f"{param}: {first['msg']}"
    return BadField(message, fix="see /openapi.json", code=code, param=param)


async def _on_http(request: Request, error: Any) -> JSONResponse:
    path, status = request.scope["path"], error.status_code
    fix = getattr(error, "fix", "") or (SPLIT_IT if status == 413 else "")
    code = getattr(error, "code", "") or _STATUS_CODES.get(status, "http_error")
    known = MantaError(str(error.detail), fix=fix)
    if status == 404:
        known = _nothing_there(path) or known
    headers: Mapping[str, str] | None = error.headers
    if status == 405:
        headers = {"Allow": ", ".join(_methods(request))}
    return JSONResponse(error_body(path, known, status, code), status, headers)


async def _on_defect(request: Request, error: Exception) -> JSONResponse:
    logger.exception("a request failed by a defect", exc_info=error)
    known = MantaError("something went wrong inside", fix="see `manta logs`", code="internal_error")
    return JSONResponse(error_body(request.scope["path"], known), 500)


def _nothing_there(path: str) -> MantaError | None:
    """One answer for what is another's, what never was and what cannot be: none of them tells of the others."""
    thing = _THINGS.get(path.lstrip("/").partition("/")[0])
    return NotFound(f"there is no such {thing}", fix="check its id") if thing else None


def _methods(request: Request) -> list[str]:
    """The methods of all routes at this path; the router itself names only those of the first."""
    path, documented = request.scope["path"], request.app.openapi()["paths"]
    if path in documented:
        return sorted(method.upper() for method in documented[path])
    for any_text in ("[^/]+", ".+"):
        found = {
            method.upper()
            for pattern, operations in documented.items()
            if re.fullmatch(re.sub(r"\{[^}]+\}", any_text, pattern), path)
            for method in operations
        }
        if found:
            return sorted(found)
    return ["GET"]
