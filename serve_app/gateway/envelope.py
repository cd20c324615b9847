"""What every answer carries, whoever gives it: a request id, and what browsers are told to leave alone."""

import re
import uuid

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.gateway.guard import header_values

REQUEST_ID = "X-Request-Id"
_PLAIN = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# Nothing that is answered is a page, but for the one that brings a policy of its own.
_NO_PAGE = "default-src 'none'; frame-ancestors 'none'"


class Envelope:
    """ASGI middleware around all others. A caller's own id is kept where it is one plain word, else replaced.

    Args:
        cors: whether pages of other sites may read answers.
    """

    def __init__(self, app: ASGIApp, *, cors: bool = False) -> None:
        self._app = app
        self._safe = {k: v for k, v in _SAFE.items() if not (cors and k.startswith("Cross-Origin"))}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        name = request_id(scope)

        async def enveloped(message: Message) -> None:
            if message["type"] in (
                "http.response.start",
                "websocket.http.response.start",
                "websocket.accept",
            ):
                headers = MutableHeaders(scope=message) if "headers" in message else _given(message)
                headers[REQUEST_ID] = name
                if message["type"] != "websocket.accept":
                    headers.setdefault("Content-Security-Policy", _NO_PAGE)
                    for key, value in self._safe.items():
                        headers.setdefault(key, value)
            await send(message)

        await self._app(scope, receive, enveloped)


def _given(message: Message) -> MutableHeaders:
    message["headers"] = []
    return MutableHeaders(scope=message)


def request_id(scope: Scope) -> str:
    given = header_values(scope, b"x-request-id")
    return given[0] if len(given) == 1 and _PLAIN.fullmatch(given[0]) else uuid.uuid4().hex
