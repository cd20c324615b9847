"""Many deadlines, one sleeper: thousands of steps have a time limit, and hardly any reaches it."""

import asyncio
import heapq
from collections.abc import Callable

from manta.clock import Clock

_LEAST_REBUILD = 1024


class Alarm:
    """A call that is due at a moment, until it is cancelled."""

    __slots__ = ("_alarms", "call")

    def __init__(self, call: Callable[[], None], alarms: "Alarms") -> None:
        self.call: Callable[[], None] | None = call
        self._alarms = alarms

    def cancel(self) -> None:
        if self.call is not None:
            self.call = None
            self._alarms.forgotten()


class Alarms:
    """Calls functions at moments of the clock's monotonic time, on the event loop that `at` is used on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Alarm]] = []
        self._count = 0
        self._cancelled = 0
        self._sleeper: asyncio.Task[None] | None = None
        self._sleeps_until = 0.0

    def at(self, when: float, call: Callable[[], None]) -> Alarm:
        alarm = Alarm(call, self)
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, alarm))
        if self._sleeper is None or self._sleeper.done() or when < self._sleeps_until:
            self._sleep_anew(when)
        return alarm

    def after(self, seconds: float, call: Callable[[], None]) -> Alarm:
        return self.at(self._clock.monotonic() + seconds, call)

    def forgotten(self) -> None:
        """An alarm was cancelled; once most are, they are thrown out, so that they do not pile up."""
        self._cancelled += 1
        if self._cancelled >= _LEAST_REBUILD and 2 * self._cancelled > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].call is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def close(self) -> None:
        if self._sleeper is not None:
            self._sleeper.cancel()
        self._heap.clear()

    def _sleep_anew(self, when: float) -> None:
        if self._sleeper is not None and self._sleeper is not asyncio.current_task():
            self._sleeper.cancel()
        self._sleeps_until = when
        self._sleeper = asyncio.create_task(self._sleep(), name="alarms")

    async def _sleep(self) -> None:
        while self._heap:
            self._sleeps_until = self._heap[0][0]
            await self._clock.sleep(self._sleeps_until - self._clock.monotonic())
            self._ring()

    def _ring(self) -> None:
        now = self._clock.monotonic()
        while self._heap and self._heap[0][0] <= now:
            _, _, alarm = heapq.heappop(self._heap)
            if alarm.call is None:
                self._cancelled = max(0, self._cancelled - 1)
                continue
            call, alarm.call = alarm.call, None
            call()
