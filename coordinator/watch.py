"""Who watches a run: wakes those that wait for its next event, and keeps the last token deltas for them."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from manta.events import Event
from manta.ids import RunId

LINGER_S = 5.0
RING_SIZE = 4096
"""Transient events kept per run; a watcher that falls behind further misses some, never durable ones."""


@dataclass(slots=True)
class _Channel:
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ring: deque[tuple[int, Event]] = field(default_factory=lambda: deque(maxlen=RING_SIZE))
    count: int = 0
    last_seq: int = 0
    over: bool = False


class Watchers:
    """One channel per run that is live in this process."""

    def __init__(self) -> None:
        self._channels: dict[RunId, _Channel] = {}

    def open(self, run: RunId) -> None:
        known = self._channels.get(run)
        if known is None or known.over:
            self._channels[run] = _Channel()

    def close(self, run: RunId) -> None:
        """The run is over: whoever waits is woken and finds the end in the journal.

        The ring stays a moment, for those who have not seen its last tokens.
        """
        channel = self._channels.get(run)
        if channel is not None:
            channel.over = True
            channel.changed.set()
            asyncio.get_running_loop().call_later(LINGER_S, self._channels.pop, run, None)

    def is_open(self, run: RunId) -> bool:
        channel = self._channels.get(run)
        return channel is not None and not channel.over

    def publish(self, events: list[Event]) -> None:
        """Durable events were committed."""
        for event in events:
            channel = self._channels.get(event.run)
            if channel is not None:
                channel.last_seq = event.seq
                channel.changed.set()

    def pass_on(self, event: Event) -> None:
        """A transient event: kept in the ring only."""
        channel = self._channels.get(event.run)
        if channel is not None:
            channel.count += 1
            channel.ring.append((channel.count, event))
            channel.changed.set()

    def transient(self, run: RunId, after: int) -> tuple[list[Event], int]:
        """Ring entries newer than cursor `after`, and the new cursor. A cursor of -1 starts at the present."""
        channel = self._channels.get(run)
        if channel is None:
            return [], after
        if after < 0:
            return [], channel.count
        return [event for number, event in channel.ring if number > after], channel.count

    async def wait(self, run: RunId, seq: int, cursor: int, timeout_s: float) -> None:
        """Return when there may be something newer than both cursors, when the run ends, or after the timeout."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while (channel := self._channels.get(run)) is not None and not channel.over:
            if channel.last_seq > seq or channel.count > max(cursor, 0):
                return
            channel.changed.clear()
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return
            try:
                async with asyncio.timeout(left):
                    await channel.changed.wait()
            except TimeoutError:
                return
