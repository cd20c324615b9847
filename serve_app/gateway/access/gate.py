"""The gate: every request shows a key, whose scopes and limits hold for all that follows."""

from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from coordinator.store.key_records import KeyOnFile
from manta.clock import Clock
from manta.errors import MantaError
from serve_app.gateway.access.accounts import Account, Accounts
from serve_app.gateway.access.keyring import KeyRing
from serve_app.gateway.access.meters import Meters
from serve_app.gateway.access.scopes import needed
from serve_app.gateway.errors import error_response
from serve_app.gateway.guard import header_values

ACCOUNT = "manta.account"
"""Where a request's scope has its key's account; it is absent where nobody has to show one."""
LOOKUP_PATIENCE_S = 3.0
CLOSE_BASE = 4000


class Access:
    """Keys and accounts of one gateway, over its coordinator. `always`: a key is asked for in any case."""

    def __init__(self, coordinator: Any, clock: Clock, *, always: bool) -> None:
        async def ask(method: str, *arguments: Any) -> Any:
            return await coordinator.call("library", "keys", method, *arguments, patience_s=LOOKUP_PATIENCE_S)

        async def find(key: str) -> KeyOnFile | None:
            found: KeyOnFile | None = await ask("find", key, self.meters.id)
            return found

        self.meters = Meters(lambda *told: ask("record", *told), clock)
        self.ring = KeyRing(find, lambda: ask("any"), clock, always=always)
        self.accounts = Accounts(self.meters, lambda *name: ask("running", *name), clock)


class Gate:
    """ASGI middleware: 401 without a key that holds, 403 without the scope, 429 over the limit of requests."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        need = needed(scope.get("method", "WEBSOCKET"), scope["path"])
        if need == "nothing":
            await self._app(scope, receive, send)
            return
        account: Account | None = None
        try:
            account = await self._account(scope)
            if account is not None:
                account.require(need)
                account.take_request()
        except MantaError as error:
            await _refuse(scope, receive, _with_limits(account, send), error)
            return
        if account is not None:
            scope[ACCOUNT] = account
        await self._app(scope, receive, _with_limits(account, send))

    async def _account(self, scope: Scope) -> Account | None:
        """None where keys are not asked for; clients of OpenAI's API show one in any case, which is not looked at."""
        if await self._access.ring.open():
            return None
        return self._access.accounts.of(await self._access.ring.admit(_bearer(scope)))


def _bearer(scope: Scope) -> str:
    """What stands behind `Bearer`; of two headers none counts."""
    shown = header_values(scope, b"authorization")
    if len(shown) != 1:
        return ""
    kind, _, rest = shown[0].partition(" ")
    return rest.strip() if kind.lower() == "bearer" else ""


def account_of(connection: HTTPConnection) -> Account | None:
    account: Account | None = connection.scope.get(ACCOUNT)
    return account


def _with_limits(account: Account | None, send: Send) -> Send:
    """Tells the key's limits with the answer, as they are when it begins."""
    if account is None:
        return send

    async def telling(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(account.headers())
        await send(message)

    return telling


async def _refuse(scope: Scope, receive: Receive, send: Send, error: MantaError) -> None:
    if scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
        await error_response(HTTPConnection(scope), error)(scope, receive, send)
        return
    # The server has no word for it before the handshake.
    websocket = WebSocket(scope, receive, send)
    await websocket.accept()
    await websocket.close(CLOSE_BASE + error.http_status, error.code)
