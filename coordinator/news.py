"""What is new about a run, for those who wait for it or watch it."""

from dataclasses import dataclass

from coordinator.store.journal import Journal
from coordinator.store.records import TERMINAL_STATUSES, RunRecord
from coordinator.watch import Watchers
from manta.clock import Clock
from manta.events import TERMINAL_EVENTS, Event
from manta.ids import RunId, Tenant

ELSEWHERE_S = 0.5
NO_CURSOR = 1 << 60
"""A cursor that no token is newer than."""
RESTING = TERMINAL_STATUSES | {"waiting"}


@dataclass(frozen=True, slots=True)
class Watch:
    """An answer to a watcher: what is new, and the cursor to ask with next. `over`: no more comes by itself."""

    events: tuple[Event, ...]
    cursor: int
    over: bool


@dataclass(frozen=True, slots=True)
class News:
    """Reads the journal for durable events, and the ring of this process for transient ones."""

    _journal: Journal
    _watchers: Watchers
    _clock: Clock

    async def wait(self, tenant: Tenant, run: RunId, timeout_s: float) -> RunRecord:
        """The run once it is over or waits for a person, or as it is after the timeout."""
        deadline = self._clock.monotonic() + timeout_s
        while True:
            status, seq = await self._journal.run_state(tenant, run)
            left = deadline - self._clock.monotonic()
            if status in RESTING or left <= 0:
                return await self._journal.get_run(tenant, run)
            await self._changed(run, seq, NO_CURSOR, left)

    async def watch(self, tenant: Tenant, run: RunId, after: int, cursor: int, timeout_s: float) -> Watch:
        """Durable events after `after` and transient ones after `cursor`; waits up to `timeout_s` for the first."""
        status, _ = await self._journal.run_state(tenant, run)
        events, cursor = await self._read(run, after, cursor)
        if not events and status not in RESTING:
            await self._changed(run, after, cursor, timeout_s)
            events, cursor = await self._read(run, after, cursor)
        over = any(event.type in TERMINAL_EVENTS for event in events)
        over = (
            over or (not events and status in RESTING) or (bool(events) and events[-1].type == "run_waiting")
        )
        return Watch(tuple(events), cursor, over)

    async def _changed(self, run: RunId, seq: int, cursor: int, timeout_s: float) -> None:
        """Until something may be new. A run that is driven elsewhere is looked at again after a while."""
        if self._watchers.is_open(run):
            await self._watchers.wait(run, seq, cursor, timeout_s)
        else:
            await self._clock.sleep(min(timeout_s, ELSEWHERE_S))

    async def _read(self, run: RunId, after: int, cursor: int) -> tuple[list[Event], int]:
        # The ring first: a token that comes in between is then shown late, not before its step began.
        transient, cursor = self._watchers.transient(run, cursor)
        durable = await self._journal.events(run, after)
        end = next((i for i, event in enumerate(durable) if event.type in TERMINAL_EVENTS), len(durable))
        return [*durable[:end], *transient, *durable[end:]], cursor
