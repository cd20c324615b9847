"""Waiting for a part that restarts: an idempotent call is repeated for a while before its caller hears of it."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from manta.clock import Clock
from manta.errors import Overloaded, Unavailable

PATIENCE_S = 15.0
T = TypeVar("T")


async def while_unavailable(
    attempt: Callable[[], Awaitable[T]], clock: Clock, patience_s: float = PATIENCE_S
) -> T:
    """Repeat `attempt` while it raises Unavailable, with growing pauses; after `patience_s` the last error.

    One that is overloaded is not pressed further: its caller hears of it at once.
    """
    deadline = clock.monotonic() + patience_s
    pause = 0.05
    while True:
        try:
            return await attempt()
        except Overloaded:
            raise
        except Unavailable:
            if clock.monotonic() + pause > deadline:
                raise
        await clock.sleep(pause)
        pause = min(1.0, pause * 2)
