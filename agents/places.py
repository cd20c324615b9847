"""A bounded number of places, given to those who wait in the order of their priority, then of their arrival."""

import asyncio
import heapq
from itertools import count


class Places:
    """Places for at most `size` holders at once. For one event loop."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = count()

    def try_take(self) -> "HeldPlace | None":
        """A place, if one is free. Nobody waits then: a place that comes free goes to a waiter at once."""
        if not self._free:
            return None
        self._free -= 1
        return HeldPlace(self)

    async def take(self, priority: int = 0) -> "HeldPlace":
        """A place as soon as there is one; lower priorities go first. A cancelled wait takes none."""
        held = self.try_take()
        if held is not None:
            return held
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._arrivals), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # The place came in the same moment as the cancel.
                self._pass_on()
            raise
        return HeldPlace(self)

    def _pass_on(self) -> None:
        """To the next who still waits, or back."""
        while self._waiting:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class HeldPlace:
    """A place until it is released; as a context manager, until the block ends."""

    __slots__ = ("_places",)

    def __init__(self, places: Places) -> None:
        self._places: Places | None = places

    def release(self) -> None:
        """Give it back; doing so twice does no harm."""
        places, self._places = self._places, None
        if places is not None:
            places._pass_on()

    def __enter__(self) -> "HeldPlace":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
