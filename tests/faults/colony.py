"""Coordinators in this process that share one journal and a clock that the test moves."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from coordinator.service import CoordinatorService
from coordinator.store.journal import Journal
from coordinator.store.records import RunRecord
from coordinator.submission import Submission
from coordinator.vigil import PERIOD_S
from manta.clock import ManualClock
from manta.config import CoordinatorSettings, LimitSettings
from manta.graph import Names, parse_graph
from manta.ids import DEFAULT_TENANT, RunId
from manta.messages import Task
from tests.coordinator.functions import FunctionRuntime

T = DEFAULT_TENANT
# One that was still at its look when the clock moved looks again two periods after the last time.
LAG_S = 2.5 * PERIOD_S
PATIENCE_S = 60.0
"""Of the test, by a real clock: only a broken one waits so long."""
Agents = Mapping[str, Callable[[Task], Any]]


class SteppingClock(ManualClock):
    """`jump` moves the time of day alone, as a correction of a host's clock does."""

    def __init__(self) -> None:
        super().__init__()
        self._off = 0.0

    def now(self) -> float:
        return super().now() + self._off

    def jump(self, seconds: float) -> None:
        self._off += seconds


class Colony:
    """`members` by name, each with a runtime of its own in `runtimes`."""

    def __init__(self, url: str, graph: Mapping[str, Any], clock: SteppingClock | None = None) -> None:
        self.clock = clock or SteppingClock()
        self._url = url
        self._graph = parse_graph({"name": "g", **graph})
        self.members: dict[str, CoordinatorService] = {}
        self.runtimes: dict[str, FunctionRuntime] = {}
        self._looked: dict[str, float] = {}

    async def add(
        self,
        name: str,
        agents: Agents,
        *,
        limits: LimitSettings | None = None,
        lease_s: float = 10,
        clock: ManualClock | None = None,
    ) -> CoordinatorService:
        runtime = self.runtimes[name] = FunctionRuntime(agents)
        service = self.members[name] = CoordinatorService(
            self._url,
            runtime,
            {"g": self._graph},
            Names(frozenset(agents), frozenset()),
            clock or self.clock,
            name,
            limits=limits,
            settings=CoordinatorSettings(lease_s=lease_s),
        )
        await service.started()
        if clock is None:
            self._note_looks(name, service.journal)
        return service

    async def die(self, name: str) -> None:
        """Its work stops and its lease stays, as after a SIGKILL."""
        await self.members.pop(name).close()

    async def close(self) -> None:
        for name in list(self.members):
            await self.die(name)

    async def until(self, condition: Callable[[], Any], what: str, step_s: float = 0.25) -> Any:
        """Let time pass until the condition holds; the time that the journal takes is not the clock's."""
        end = time.monotonic() + PATIENCE_S
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            assert time.monotonic() < end, f"{what} did not come about"
            # No faster than the slowest can follow: a coordinator must not lose its lease because the journal is slow.
            if self._have_looked_since(self.clock.monotonic() - LAG_S):
                await self.clock.advance(step_s)
            await asyncio.sleep(0.005)

    async def pass_time(self, seconds: float) -> None:
        """Second after second; every coordinator keeps up, and has looked for runs to take within the last ones."""
        for _ in range(round(seconds)):
            await self.clock.advance(1.0)
            async with asyncio.timeout(PATIENCE_S):
                while not self._have_looked_since(self.clock.monotonic() - LAG_S):
                    await asyncio.sleep(0.001)

    def _have_looked_since(self, moment: float) -> bool:
        return all(looked > moment for name, looked in self._looked.items() if self._looks(name))

    def _looks(self, name: str) -> bool:
        """Whether it is there and looks after its runs by this clock."""
        member = self.members.get(name)
        return member is not None and member._vigil is not None and not member._vigil.done()

    def _note_looks(self, name: str, journal: Journal) -> None:
        look = journal.due

        async def noted(now: float, limit: int) -> Any:
            moment = self.clock.monotonic()
            found = await look(now, limit)
            self._looked[name] = moment
            return found

        self._looked[name] = self.clock.monotonic()
        journal.due = noted  # type: ignore[method-assign]

    async def ended(self, run: RunId, by: str) -> RunRecord:
        async def over() -> RunRecord | None:
            record = (await self.members[by].get(T, run))[0]
            return record if record.status not in ("pending", "running", "waiting") else None

        record: RunRecord = await self.until(over, f"the end of run {run}")
        return record

    async def state(self, run: RunId, by: str) -> str:
        return (await self.members[by].get(T, run))[0].status


async def submit(service: CoordinatorService, value: Any = None, **more: Any) -> RunId:
    return (await service.submit(Submission("g", {} if value is None else value, T, **more))).id


async def forever(task: Task) -> None:
    await asyncio.Event().wait()
