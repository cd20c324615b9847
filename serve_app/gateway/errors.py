"""Every error becomes JSON in one place: OpenAI's shape under /v1, the Agent Protocol's elsewhere."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Scope

from manta.errors import InvalidInput, MantaError, Unavailable
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

logger = get_logger("gateway")


def is_openai(path: str) -> bool:
    return path.startswith("/v1/")


def error_body(path: str, error: MantaError, status: int = 0, code: str = "") -> dict[str, Any]:
    """`status` and `code` replace the error's own where HTTP itself has the better word."""
    code = code or error.code
    if is_openai(path):
        kind = "invalid_request_error" if (status or error.http_status) < 500 else "server_error"
        message = error.message + (f" ({error.fix})" if error.fix else "")
        return {"error": {"message": message, "type": kind, "code": code, "param": None}}
    return {"code": code, "message": error.message, "metadata": {"fix": error.fix}}


def error_response(request: Request, error: MantaError) -> JSONResponse:
    status = error.http_status
    if is_openai(request.scope["path"]) and isinstance(error, InvalidInput):
        # OpenAI answers 400 where the Agent Protocol answers 422.
        status = 400
    headers = {"Retry-After": str(RETRY_AFTER_S)} if isinstance(error, Unavailable) else None
    return JSONResponse(error_body(request.scope["path"], error), status, headers)


def refusal(scope: Scope, status: int, code: str, message: str, fix: str) -> JSONResponse:
    """An answer given before there is a request."""
    return JSONResponse(error_body(scope["path"], MantaError(message, fix=fix), status, code), status)


def install(app: FastAPI) -> None:
    @app.exception_handler(MantaError)
    async def on_manta_error(request: Request, error: MantaError) -> JSONResponse:
        return error_response(request, error)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        if (
            request.headers.get("content-type", "").split(";")[0] != "application/json"
            and error.body is not None
        ):
            # Taking other types would let any web page post here without the browser asking first.
            cause = MantaError("the body is not declared as JSON", fix="send Content-Type: application/json")
            return JSONResponse(error_body(request.scope["path"], cause, 415, "unsupported_media_type"), 415)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        return error_response(request, InvalidInput(f"{where}: {first['msg']}", fix="see /openapi.json"))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        code = _STATUS_CODES.get(error.status_code, "http_error")
        known = MantaError(str(error.detail), fix=SPLIT_IT if error.status_code == 413 else "")
        body = error_body(request.scope["path"], known, error.status_code, code)
        return JSONResponse(body, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def on_defect(request: Request, error: Exception) -> JSONResponse:
        logger.exception("a request failed by a defect")
        known = MantaError("something went wrong inside", fix="see `manta logs`", code="internal_error")
        return JSONResponse(error_body(request.scope["path"], known), 500)
