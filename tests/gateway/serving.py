"""The gateway on a real socket, for clients that bring their own transport."""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manta.protocols import ChatModel
from tests.gateway.platform import Local, start

T = TypeVar("T")


@asynccontextmanager
async def served(local: Local, app: ASGIApp | None = None) -> AsyncIterator[str]:
    """Its address while it is served, on the loop of the coordinator service. `app` goes around its API."""
    config = uvicorn.Config(app or local.api, host="127.0.0.1", port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(20):
            while not server.started:
                await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        await task


class Curtailed:
    """The app, but a thread's stream ends after a moment, as if its client had left; the client sees a whole answer."""

    def __init__(self, app: ASGIApp, after_s: float = 0.1) -> None:
        self._app, self._after_s = app, after_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endless = scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith("/stream")
        if not endless or not scope["path"].startswith("/threads/"):
            await self._app(scope, receive, send)
            return
        asked = False
        ended = False

        async def until_then() -> Message:
            nonlocal asked
            if asked:
                await asyncio.sleep(self._after_s)
                return {"type": "http.disconnect"}
            message = await receive()
            asked = not message.get("more_body", False)
            return message

        async def watched(message: Message) -> None:
            nonlocal ended
            ended = ended or (message["type"] == "http.response.body" and not message.get("more_body", False))
            await send(message)

        await self._app(scope, until_then, watched)
        if not ended:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


@dataclass(frozen=True)
class Apart:
    """A platform on a thread and a loop of its own, for clients that block."""

    url: str
    local: Local
    loop: asyncio.AbstractEventLoop

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work` on the platform's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def release(self) -> None:
        """Lets the runs of `hold` end."""
        self.loop.call_soon_threadsafe(self.local.release.set)


@contextmanager
def served_apart(
    folder: Path, models: Mapping[str, ChatModel], *, curtailed: bool = False, **options: Any
) -> Iterator[Apart]:
    found: list[Apart] = []
    ready, enough = threading.Event(), threading.Event()

    async def serve() -> None:
        local, stop = await start(folder, models, **options)
        app = Curtailed(local.api) if curtailed else local.api
        try:
            async with served(local, app) as address:
                found.append(Apart(address, local, asyncio.get_running_loop()))
                ready.set()
                await asyncio.to_thread(enough.wait)
        finally:
            await stop()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    try:
        assert ready.wait(60), "the platform did not start"
        yield found[0]
    finally:
        enough.set()
        thread.join(30)
