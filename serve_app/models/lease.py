"""The end of a call whose caller is gone: after its lease nobody works on it, whatever backend it is on."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from manta.errors import RunCancelled
from manta.messages import ChatChunk


async def within_lease(
    chunks: AsyncGenerator[ChatChunk, None],
    deadline: float | None,
    now: Callable[[], float] = time.time,
) -> AsyncGenerator[ChatChunk, None]:
    """The chunks, closed when these are closed, and when the lease lapses before they end.

    Args:
        deadline: seconds since the epoch; None is no lease.

    Raises:
        RunCancelled: it lapsed.
    """
    async with aclosing(chunks):
        while True:
            try:
                async with asyncio.timeout(None if deadline is None else deadline - now()) as lease:
                    chunk = await anext(chunks, None)
            except TimeoutError:
                if not lease.expired():
                    raise
                raise RunCancelled(
                    "the lease of this call lapsed", fix="its caller is taken for dead"
                ) from None
            if chunk is None:
                return
            yield chunk
