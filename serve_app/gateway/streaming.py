"""Server-sent answers whose generators are closed at once when a client leaves, and what is done after it left."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from manta.detached import detached

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def sse_answer(*names: str) -> dict[int | str, dict[str, Any]]:
    """What an OpenAPI document says of a route that streams events of these names; their data is JSON."""
    event = {
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": {"enum": list(names)},
            "data": {"type": "string", "contentMediaType": "application/json"},
            "id": {"type": "string", "pattern": "^[0-9]+$"},
        },
    }
    return {
        200: {"description": "Server-sent events", "content": {"text/event-stream": {"itemSchema": event}}}
    }


_background: set[asyncio.Task[None]] = set()


def in_background(work: Coroutine[Any, Any, None]) -> None:
    """Do `work` whatever becomes of the request; it reports its own errors."""
    task = detached(work)
    # The loop itself keeps no task alive.
    _background.add(task)
    task.add_done_callback(_background.discard)


class EventStream(StreamingResponse):
    """Starlette leaves a stream that is cut off to the garbage collector, and a model goes on until then.

    Args:
        frames: the text to send.
        source: a generator that `frames` reads; closed even when `frames` was never begun.
        on_leave: called when the client left before the last frame.
    """

    def __init__(
        self,
        frames: AsyncGenerator[str, None],
        source: AsyncGenerator[Any, None] | None = None,
        on_leave: Callable[[], None] | None = None,
    ) -> None:
        self._ended = False
        self._frames, self._source, self._on_leave = frames, source, on_leave
        self._sent = self._until_end(frames)
        super().__init__(self._sent, media_type="text/event-stream", headers=HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if not self._ended and self._on_leave is not None:
                self._on_leave()
            await self._close()

    async def _until_end(self, frames: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        async for frame in frames:
            yield frame
        self._ended = True

    async def _close(self) -> None:
        for generator in (self._sent, self._frames, self._source):
            if generator is not None:
                await generator.aclose()
