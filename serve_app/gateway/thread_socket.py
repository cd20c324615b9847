"""A thread over a WebSocket: commands in, their answers and the events of subscriptions out."""

import asyncio
import contextlib
import uuid
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from manta.errors import MantaError
from manta.ids import ThreadId
from serve_app.gateway.bodies import MAX_FRAME_BYTES, StrictRoute, read_json
from serve_app.gateway.commands import (
    CommandAnswer,
    Params,
    Refused,
    StreamingCommand,
    answer,
    param,
    refusal,
)
from serve_app.gateway.deps import Desk, DeskDep, ThreadPath, known_id
from serve_app.gateway.errors import READING, Unreadable, declared, error_body
from serve_app.gateway.thread_streams import EventStreamRequest, failure, open_reader

MAX_SUBSCRIPTIONS = 32
CLOSE_BASE = 4000
"""A WebSocket that is closed over an error is closed with this plus the HTTP status."""

router = APIRouter(
    tags=["threads"], route_class=StrictRoute, responses=READING, default_response_class=Response
)


@router.get("/threads/{thread_id}/stream", status_code=426, responses=declared(426))
async def open_thread_websocket_stream(thread: ThreadPath, desk: DeskDep) -> Response:
    """Commands and events in one connection, once it is upgraded to a WebSocket."""
    await desk.library("threads", "get", thread)
    raise Unreadable(
        "this address is a WebSocket",
        status=426,
        code="upgrade_required",
        fix="connect by ws://, or POST here for server-sent events",
    )


@router.websocket("/threads/{thread_id}/stream")
async def thread_socket(websocket: WebSocket, thread_id: str, desk: DeskDep) -> None:
    try:
        thread = ThreadId(known_id(thread_id, "thread"))
        await desk.library("threads", "get", thread)
    except MantaError as error:
        await _deny(websocket, error)
        return
    await websocket.accept()
    await _Connection(websocket, desk, thread).serve()


async def _deny(websocket: WebSocket, error: MantaError) -> None:
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        body = error_body(websocket.scope["path"], error)
        await websocket.send_denial_response(JSONResponse(body, error.http_status))
    else:
        # The server has no word for it before the handshake.
        await websocket.accept()
        await websocket.close(CLOSE_BASE + error.http_status, error.code)


@dataclass(slots=True)
class _Subscription:
    request: EventStreamRequest
    pump: asyncio.Task[None]


@dataclass(slots=True)
class _Connection:
    """Sends from one place at a time: answers and events of several subscriptions share the socket."""

    websocket: WebSocket
    desk: Desk
    thread: ThreadId
    _subscriptions: dict[str, _Subscription] = field(default_factory=dict)
    _sending: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def serve(self) -> None:
        try:
            while True:
                await self._send(await self._answer(await self._receive()))
        except WebSocketDisconnect:
            return
        finally:
            await self._end(*self._subscriptions)

    async def _receive(self) -> bytes:
        message = await self.websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        text = message.get("text")
        return text.encode() if text is not None else bytes(message.get("bytes") or b"")

    async def _answer(self, raw: bytes) -> CommandAnswer:
        number: int | None = None
        try:
            command = _command(raw)
            number = command.id
            match command.method:
                case "subscription.subscribe":
                    result = await self._subscribe(command.params)
                case "subscription.unsubscribe":
                    result = await self._unsubscribe(command.params)
                case "subscription.reconnect":
                    result = await self._reconnect(command.params)
                case _:
                    return await answer(self.desk, self.thread, command)
        except Refused as refused:
            return refusal(number, refused)
        except MantaError as error:
            # Also a part that is away: the connection itself is sound.
            code = "invalid_argument" if error.http_status < 500 else "unknown_error"
            return refusal(number, Refused(code, error.message))
        return {"type": "success", "id": command.id, "result": result}

    async def _subscribe(self, params: Params) -> dict[str, Any]:
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise Refused("invalid_argument", f"there are {MAX_SUBSCRIPTIONS} subscriptions already")
        try:
            request = EventStreamRequest.model_validate(params)
        except ValidationError as error:
            raise Refused("invalid_argument", error.errors()[0]["msg"]) from None
        name = str(uuid.uuid4())
        await self._begin(name, request, request.since)
        return {"subscription_id": name}

    async def _unsubscribe(self, params: Params) -> dict[str, Any]:
        await self._end(self._known(param(params, "subscription_id")))
        return {}

    async def _reconnect(self, params: Params) -> dict[str, Any]:
        """Subscriptions of this connection go on behind an event; those of a lost one are gone with it."""
        last, names = param(params, "last_event_id"), param(params, "subscriptions")
        since = int(last) if isinstance(last, str) and last.isdigit() and len(last) < 17 else None
        wanted = list(self._subscriptions) if names is None else names
        if not isinstance(wanted, list) or not all(name in self._subscriptions for name in wanted):
            return {"restored": False}
        for name in wanted:
            request = self._subscriptions[name].request
            await self._end(name)
            await self._begin(name, request, since)
        return {"restored": bool(wanted)}

    def _known(self, name: Any) -> str:
        if not isinstance(name, str) or name not in self._subscriptions:
            raise Refused("no_such_subscription", "there is no such subscription on this connection")
        return name

    async def _begin(self, name: str, request: EventStreamRequest, since: int | None) -> None:
        reader = await open_reader(self.desk, self.thread, request.wanted(), since)

        async def pump() -> None:
            try:
                async for told in reader.read():
                    if told is not None:
                        await self._send(told)
            except MantaError as error:
                await self._send(failure(error))
                await self.websocket.close(CLOSE_BASE + error.http_status, error.code)

        self._subscriptions[name] = _Subscription(request, asyncio.create_task(pump()))

    async def _end(self, *names: str) -> None:
        pumps = [self._subscriptions.pop(name).pump for name in names]
        for pump in pumps:
            pump.cancel()
        for pump in pumps:
            with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
                await pump

    async def _send(self, message: Any) -> None:
        async with self._sending:
            await self.websocket.send_json(message)


def _command(raw: bytes) -> StreamingCommand:
    if len(raw) > MAX_FRAME_BYTES:
        raise Refused("invalid_argument", f"a message is over {MAX_FRAME_BYTES >> 20} MiB")
    try:
        return StreamingCommand.model_validate(read_json(raw))
    except HTTPException as error:
        raise Refused("invalid_argument", str(error.detail)) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused("invalid_argument", f"{where}: {first['msg']}") from None
