"""Runs that were at work each time a coordinator died are taken up with care: one of them may be the cause.

Were they all begun at once, each would be blamed for every further death. So they begin in groups, those with the
most deaths first, and who has not begun when the next death comes is not blamed for it. The cause is at work at every
death, so in the end none has as many: that one is found guilty.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from manta.clock import Clock
from manta.ids import RunId

SUSPICIOUS = 2
"""Deaths in a row, without any step getting done, after which a run is a suspect."""
GROUPS = 4
WATCHED_S = 2.0
"""How long a group is watched before the next begins, unless all of it gets something done. Doubles with each death
by which nobody was found guilty: some causes take their time."""
MOST_DOUBLINGS = 9


@dataclass(order=True, slots=True)
class _Suspect:
    rank: tuple[int, float]
    run: RunId = field(compare=False)
    turn: asyncio.Future[bool] = field(compare=False)

    @property
    def deaths(self) -> int:
        return -self.rank[0]


class Trials:
    """For one event loop.

    Args:
        most: the deaths that a run may have seen without being found guilty.
        draw: orders those with as many deaths; by chance, so that company changes.
    """

    def __init__(self, clock: Clock, most: int, draw: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._most = most
        self._draw = draw
        self._waiting: list[_Suspect] = []
        self._watched: set[RunId] = set()
        self._harmless = asyncio.Event()
        self._holding: asyncio.Task[None] | None = None

    async def turn(self, run: RunId, deaths: int) -> bool:
        """Returns when the run may begin, or with True at once when it is guilty. `harmless` is to be told."""
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Suspect((-deaths, self._draw()), run, turn))
        if self._holding is None:
            # It begins once all that are taken up together are here.
            self._holding = asyncio.create_task(self._hold(), name="trials")
        return await turn

    def harmless(self, run: RunId) -> None:
        """It got something done, or is at work no more."""
        self._watched.discard(run)
        if not self._watched:
            self._harmless.set()

    def close(self) -> None:
        if self._holding is not None:
            self._holding.cancel()

    async def _hold(self) -> None:
        self._find_guilty()
        while self._waiting:
            suspects = sorted(self._waiting)
            self._waiting.clear()
            most = suspects[0].deaths
            seconds = WATCHED_S * 2 ** min(max(0, most - self._most), MOST_DOUBLINGS)
            # Those with the most deaths apart: the cause is among them, if it is here at all.
            first = [suspect for suspect in suspects if suspect.deaths == most]
            for group in (*_split(first), *_split(suspects[len(first) :])):
                await self._begin(group, seconds)
        self._holding = None

    async def _begin(self, group: Sequence[_Suspect], seconds: float) -> None:
        there = [suspect for suspect in group if not suspect.turn.done()]
        self._harmless.clear()
        self._watched = {suspect.run for suspect in there}
        for suspect in there:
            suspect.turn.set_result(False)
        if there:
            await self._watch(seconds)

    def _find_guilty(self) -> None:
        first, *others = sorted(self._waiting)[:2]
        stands_out = not others or others[0].deaths < first.deaths
        if stands_out and first.deaths > self._most and not first.turn.done():
            self._waiting.remove(first)
            first.turn.set_result(True)

    async def _watch(self, seconds: float) -> None:
        waits = [
            asyncio.ensure_future(self._harmless.wait()),
            asyncio.ensure_future(self._clock.sleep(seconds)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def _split(suspects: Sequence[_Suspect]) -> Iterator[Sequence[_Suspect]]:
    size = -(-len(suspects) // GROUPS)
    for start in range(0, len(suspects), max(1, size)):
        yield suspects[start : start + size]
