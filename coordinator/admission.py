"""Which of the accepted runs go to work next: fair between tenants, bounded per tenant, graph and thread. Pure.

Every operation costs O(log n) in the number of queued runs, but for a look at each tenant that has some.
"""

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from coordinator.store.records import RunBrief
from manta.config import LimitSettings
from manta.ids import RunId, Tenant

_Queue: TypeAlias = list[tuple[int, int, RunId, RunBrief]]
_Reason: TypeAlias = tuple[str, ...]


@dataclass(slots=True)
class _Line:
    """What one tenant has: runs that could go at once, and how many are at work."""

    ready: _Queue = field(default_factory=list)
    active: int = 0
    last_served: int = 0


class Admission:
    """Queued and active runs of one coordinator."""

    def __init__(self, limits: LimitSettings) -> None:
        self._limits = limits
        self._lines: dict[Tenant, _Line] = {}
        self._blocked: dict[_Reason, _Queue] = {}
        self._queued: set[RunId] = set()
        self._active: dict[RunId, RunBrief] = {}
        self._per_graph: Counter[_Reason] = Counter()
        self._threads: set[_Reason] = set()
        self._resting: dict[RunId, _Reason] = {}
        self._served = 0

    @property
    def queued(self) -> int:
        return len(self._queued)

    @property
    def active(self) -> int:
        return len(self._active)

    @property
    def overloaded(self) -> bool:
        """Whether one more run would have to wait and may not."""
        return len(self._active) >= self._limits.active_runs and self.queued >= self._limits.queued_runs

    def knows(self, run: RunId) -> bool:
        return run in self._queued or run in self._active

    @property
    def contested(self) -> list[tuple[Tenant, RunId]]:
        """Resting runs for whose threads others wait."""
        if not self._blocked:
            return []
        resting = {place: run for run, place in self._resting.items()}
        return [(Tenant(place[1]), resting[place]) for place in self._blocked if place in resting]

    def offer(self, brief: RunBrief) -> None:
        """Queue a run; one that is known already stays as it is."""
        if (place := self._resting.pop(brief.id, None)) is not None:
            self._threads.discard(place)
        if not self.knows(brief.id):
            self._queued.add(brief.id)
            self._push(self._line(brief.tenant).ready, brief)

    def withdraw(self, run: RunId) -> None:
        """A queued or resting run was cancelled or taken by another coordinator."""
        self._queued.discard(run)
        if (place := self._resting.pop(run, None)) is not None:
            self._threads.discard(place)
            self._unblock(place)

    def admit_now(self, brief: RunBrief) -> bool:
        """Take a new run at once if nothing is before it and nothing is in its way."""
        if self.knows(brief.id) or self._line(brief.tenant).ready or self._full(brief.tenant):
            return False
        if self._obstacle(brief) is not None or any(self._waiting_for(r) for r in _places(brief)):
            return False
        self._activate(brief)
        return True

    def admit(self) -> Iterator[RunBrief]:
        """The runs that go to work now; each counts as active until `ended`."""
        while (brief := self._next()) is not None:
            self._queued.discard(brief.id)
            self._activate(brief)
            yield brief

    def ended(self, run: RunId, *, keep_thread: bool = False) -> None:
        """A run is over, waits for a person, or is somebody else's: its places are free.

        `keep_thread`: it is not over, so that nothing else may work on its thread.
        """
        brief = self._active.pop(run, None)
        if brief is None:
            return
        self._line(brief.tenant).active -= 1
        for place in _places(brief):
            if place[0] == "graph":
                self._per_graph[place] -= 1
            elif keep_thread:
                self._resting[brief.id] = place
                continue
            else:
                self._threads.discard(place)
            self._unblock(place)

    def _next(self) -> RunBrief | None:
        if len(self._active) >= self._limits.active_runs:
            return None
        lines = [(tenant, line) for tenant, line in self._lines.items() if line.ready]
        for tenant, line in sorted(lines, key=lambda pair: (pair[1].active, pair[1].last_served)):
            while line.ready and not self._full(tenant):
                brief = heapq.heappop(line.ready)[-1]
                if brief.id not in self._queued:
                    continue
                obstacle = self._obstacle(brief)
                if obstacle is None:
                    return brief
                self._push(self._blocked.setdefault(obstacle, []), brief)
                # It may have been let through for a place that it cannot use now: another can.
                for place in _places(brief):
                    if place != obstacle and not self._taken(place, brief):
                        self._unblock(place)
        return None

    def _activate(self, brief: RunBrief) -> None:
        self._served += 1
        line = self._line(brief.tenant)
        line.active += 1
        line.last_served = self._served
        self._active[brief.id] = brief
        for place in _places(brief):
            if place[0] == "graph":
                self._per_graph[place] += 1
            else:
                self._threads.add(place)

    def _full(self, tenant: Tenant) -> bool:
        limit = self._limits.active_runs_per_tenant
        over = limit is not None and self._line(tenant).active >= limit
        return over or len(self._active) >= self._limits.active_runs

    def _obstacle(self, brief: RunBrief) -> _Reason | None:
        return next((place for place in _places(brief) if self._taken(place, brief)), None)

    def _taken(self, place: _Reason, brief: RunBrief) -> bool:
        if place[0] == "thread":
            return place in self._threads
        return self._per_graph[place] >= (brief.max_active or 0)

    def _unblock(self, place: _Reason) -> None:
        """One of those that wait for the place is looked at again."""
        waiting = self._blocked.get(place, [])
        while waiting:
            brief = heapq.heappop(waiting)[-1]
            if brief.id in self._queued:
                self._push(self._line(brief.tenant).ready, brief)
                break
        if not waiting:
            self._blocked.pop(place, None)

    def _waiting_for(self, place: _Reason) -> bool:
        return bool(self._blocked.get(place))

    def _line(self, tenant: Tenant) -> _Line:
        return self._lines.setdefault(tenant, _Line())

    @staticmethod
    def _push(queue: _Queue, brief: RunBrief) -> None:
        heapq.heappush(queue, (brief.priority, brief.number, brief.id, brief))


def _places(brief: RunBrief) -> list[_Reason]:
    """What a run occupies beside a place of its tenant: its thread, and one of its graph's places."""
    places: list[_Reason] = []
    if brief.thread is not None:
        places.append(("thread", brief.tenant, brief.thread))
    if brief.max_active is not None:
        places.append(("graph", brief.tenant, brief.graph_name))
    return places
