"""How bodies are read: never more than a route may need, and JSON only in the strict sense."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manta.errors import InvalidInput
from serve_app import strict_json
from serve_app.gateway.errors import SPLIT_IT, refusal

MAX_JSON_BYTES = 16 << 20
MAX_FILE_BYTES = 64 << 20
"""Of a file or a document; what a document's text may be has a lower cap of its own."""


class BodyLimit:
    """ASGI middleware: a body over its route's limit is 413 `payload_too_large`, whatever its header says."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = _limit(scope)
        if _declared(scope) > limit:
            await refusal(scope, 413, "payload_too_large", _message(limit), SPLIT_IT)(scope, receive, send)
            return
        count = 0

        async def counted() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > limit:
                # Of all errors FastAPI lets only this kind pass from reading a body.
                raise HTTPException(413, _message(limit))
            return message

        await self._app(scope, counted, send)


def _limit(scope: Scope) -> int:
    path, method = scope["path"], scope["method"]
    takes_files = path == "/files" or (method == "PUT" and path.startswith("/collections/"))
    return MAX_FILE_BYTES if takes_files else MAX_JSON_BYTES


def _declared(scope: Scope) -> int:
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    return max((int(value) for value in lengths if value.isdigit() and len(value) < 19), default=0)


def _message(limit: int) -> str:
    return f"the body is over {limit >> 20} MiB"


class StrictRequest(Request):
    async def json(self) -> Any:
        try:
            return strict_json.loads((await self.body()).decode())
        except UnicodeDecodeError:
            raise HTTPException(400, "the body is not UTF-8") from None
        except InvalidInput as error:
            raise HTTPException(400, f"the body: {error.message}") from None


class StrictRoute(APIRoute):
    """A route that reads its JSON strictly; given to every router."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return strict
