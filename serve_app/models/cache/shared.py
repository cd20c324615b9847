"""The level of kept answers that several processes share, made harmless: slow or gone, it has nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from manta.clock import Clock
from manta.telemetry import get_logger
from serve_app.models.cache.shelf import Kept

LOOK_S = 0.05
"""What a look may take."""
PAUSE_S = 1.0
"""For so long one that did not answer is left in peace."""

logger = get_logger("models")


class SharedAnswers(Protocol):
    """What is told need not arrive. Any error may be raised."""

    async def get(self, model: str, key: str) -> Kept | None: ...

    async def near(self, model: str, scope: str, vector: bytes, threshold: float) -> Kept | None: ...

    def put(self, model: str, kept: Kept, max_bytes: int) -> None: ...

    def forget(self, model: str) -> None: ...


class Guarded:
    """`SharedAnswers` that raise nothing and take `LOOK_S` at most. `failures` counts what went wrong."""

    def __init__(self, shared: SharedAnswers, clock: Clock) -> None:
        self._shared = shared
        self._clock = clock
        self._quiet_until = clock.monotonic()
        self._answers = True
        self.failures = 0

    async def get(self, model: str, key: str) -> Kept | None:
        return await self._look(lambda: self._shared.get(model, key))

    async def near(self, model: str, scope: str, vector: bytes, threshold: float) -> Kept | None:
        return await self._look(lambda: self._shared.near(model, scope, vector, threshold))

    def put(self, model: str, kept: Kept, max_bytes: int) -> None:
        if self._may_be_asked():
            self._tell(lambda: self._shared.put(model, kept, max_bytes))

    def forget(self, model: str) -> None:
        self._tell(lambda: self._shared.forget(model))

    async def _look(self, look: Callable[[], Awaitable[Kept | None]]) -> Kept | None:
        if not self._may_be_asked():
            return None
        try:
            async with asyncio.timeout(LOOK_S):
                found = await look()
        except Exception as error:
            self._failed(error)
            return None
        if not self._answers:
            self._answers = True
            logger.info("the shared cache answers again")
        return found

    def _tell(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception as error:
            self._failed(error)

    def _may_be_asked(self) -> bool:
        return self._clock.monotonic() >= self._quiet_until

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        self._quiet_until = self._clock.monotonic() + PAUSE_S
        if self._answers:
            self._answers = False
            cause = " ".join(str(error).split())[:200] or type(error).__name__
            logger.warning("the shared cache does not answer: %s", cause)
