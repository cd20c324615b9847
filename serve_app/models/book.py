"""The routes of all models as this process knows them: asked of the registry, believed for some seconds."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from coordinator.store.model_records import Book
from manta.clock import Clock
from manta.detached import detached
from manta.errors import MantaError
from manta.telemetry import get_logger
from serve_app.models.arms import Routed, Routes, read_book

FRESH_S = 2.0
"""What changes in the registry is known here after so many seconds of use, at most."""
OLD_S = 5.0
"""What is older is not gone by, unless nobody tells anything newer within `ASK_S`."""
ASK_S = 1.0

Ask: TypeAlias = Callable[[int], Awaitable[Book | None]]
"""The registry's `book`: None where nothing has changed since the generation named."""

logger = get_logger("models")


class RouteBook:
    """While it is in use, no call waits for it: it is read again behind them. After a pause the first call waits.

    While no coordinator answers, what was known goes on to hold.
    """

    def __init__(self, ask: Ask, clock: Clock) -> None:
        self._ask = ask
        self._clock = clock
        self._generation = -1
        self._routes: dict[str, Routed] = {}
        self._read_at = 0.0
        self._reading: asyncio.Task[None] | None = None

    async def routes(self) -> Routes:
        """Raises Unavailable if it was never read and cannot be read now."""
        if self._generation < 0:
            return await self.fresh()
        age = self._clock.monotonic() - self._read_at
        if age >= FRESH_S:
            reading = self._reading or self._begin()
            reading.add_done_callback(_note_failure)
            if age >= OLD_S:
                await asyncio.wait({reading}, timeout=ASK_S)
        return self._routes

    async def fresh(self) -> Routes:
        """As the registry has them now, not as it had them when an earlier question was on its way.

        Raises Unavailable.
        """
        if self._reading is not None:
            await asyncio.wait({self._reading})
        await asyncio.shield(self._reading or self._begin())
        return self._routes

    def _begin(self) -> asyncio.Task[None]:
        """One question for all who ask it at a time."""
        self._reading = detached(self._read())
        return self._reading

    async def _read(self) -> None:
        try:
            book = await self._ask(self._generation)
            if book is not None:
                self._routes, self._generation = read_book(book), book.generation
        finally:
            self._read_at = self._clock.monotonic()
            self._reading = None


def _note_failure(reading: asyncio.Task[None]) -> None:
    error = None if reading.cancelled() else reading.exception()
    if isinstance(error, MantaError):
        logger.warning("the models' routes stay as they were, no coordinator tells them: %s", error)
    elif error is not None:
        raise error
