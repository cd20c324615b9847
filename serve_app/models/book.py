"""The routes of all models as this process knows them: asked of the registry, believed for some seconds."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from coordinator.store.model_records import Book
from manta.clock import Clock
from manta.errors import MantaError
from manta.telemetry import get_logger
from serve_app.models.arms import Routed, Routes, read_book

FRESH_S = 2.0
"""What changes in the registry is known here after so many seconds of use, at most."""

Ask: TypeAlias = Callable[[int], Awaitable[Book | None]]
"""The registry's `book`: None where nothing has changed since the generation named."""

logger = get_logger("models")


class RouteBook:
    """Once it was read, no call waits for it: it is read again behind them.

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
        if self._clock.monotonic() - self._read_at >= FRESH_S and self._reading is None:
            self._begin().add_done_callback(_note_failure)
        return self._routes

    async def fresh(self) -> Routes:
        """As the registry has them now. Raises Unavailable."""
        await asyncio.shield(self._reading or self._begin())
        return self._routes

    def _begin(self) -> asyncio.Task[None]:
        """One question for all who ask it at a time."""
        self._reading = asyncio.create_task(self._read())
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
