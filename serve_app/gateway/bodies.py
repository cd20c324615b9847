"""How bodies are read: never more than a route may need, and JSON only in the strict sense."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manta.errors import InvalidInput
from serve_app import strict_json
from serve_app.gateway.errors import SPLIT_IT, Unreadable, refusal

MAX_JSON_BYTES = 16 << 20
MAX_FILE_BYTES = 64 << 20
"""Of a file or a document; what a document's text may be has a lower cap of its own."""
MAX_BATCH_FILE_BYTES = 200 << 20
"""Of a batch's file; OpenAI's own."""
MAX_BATCH_BYTES = MAX_BATCH_FILE_BYTES + (1 << 20)
"""Of the form with it."""
MAX_FRAME_BYTES = 1 << 20
"""Of one message on a WebSocket."""


class BodyLimit:
    """ASGI middleware: a body over its route's limit is 413 `payload_too_large`, whatever its header says.

    A body that is packed is 415: a few kilobytes of it may be gigabytes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = _limit(scope)
        if _packed(scope):
            answer = refusal(scope, 415, "unsupported_media_type", "the body is packed", "send it as it is")
        elif _declared(scope) > limit:
            answer = refusal(scope, 413, "payload_too_large", _message(limit), SPLIT_IT)
        else:
            await self._app(scope, _counted(receive, limit), send)
            return
        await answer(scope, receive, send)


def _counted(receive: Receive, limit: int) -> Receive:
    count = 0

    async def counted() -> Message:
        nonlocal count
        message = await receive()
        count += len(message.get("body", b""))
        if count > limit:
            raise Unreadable(_message(limit), status=413, code="payload_too_large", fix=SPLIT_IT)
        return message

    return counted


def _limit(scope: Scope) -> int:
    path, method = scope["path"], scope["method"]
    if path == "/v1/files":
        return MAX_BATCH_BYTES
    takes_files = path == "/files" or (method == "PUT" and path.startswith("/collections/"))
    return MAX_FILE_BYTES if takes_files else MAX_JSON_BYTES


def _declared(scope: Scope) -> int:
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    return max((int(value) for value in lengths if value.isdigit() and len(value) < 19), default=0)


def _packed(scope: Scope) -> bool:
    return any(
        value.strip().lower() not in (b"", b"identity")
        for name, value in scope["headers"]
        if name == b"content-encoding"
    )


def _message(limit: int) -> str:
    return f"the body is over {limit >> 20} MiB"


class StrictRequest(Request):
    async def json(self) -> Any:
        return read_json(await self.body())


def read_json(body: bytes) -> Any:
    """Raises Unreadable for what is no JSON, InvalidInput for text that no journal can hold."""
    try:
        value = strict_json.loads(body.decode())
    except UnicodeDecodeError:
        raise Unreadable("the body is not UTF-8", fix="send UTF-8") from None
    except InvalidInput as error:
        raise Unreadable(f"the body: {error.message}", fix=error.fix) from None
    return value


class StrictRoute(APIRoute):
    """A route that reads its JSON strictly; given to every router."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            strictly = StrictRequest(request.scope, request.receive)
            if self.body_field is not None:
                await _require_json(strictly)
            return await handler(strictly)

        return strict


async def _require_json(request: Request) -> None:
    """Taking other types would let any web page post here without the browser asking first."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and await request.body():
        raise Unreadable(
            "the body is not declared as JSON",
            status=415,
            code="unsupported_media_type",
            fix="send Content-Type: application/json",
        )
