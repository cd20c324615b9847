"""A cancel waits for nobody who watches the run, however many they are. Counted, not timed."""

import asyncio
import threading
from collections import Counter
from typing import Any

from coordinator.service import CoordinatorService
from coordinator.store.engine import READERS
from coordinator.submission import Submission
from manta.events import Event
from manta.ids import DEFAULT_TENANT as T
from manta.ids import RunId, StepKey
from manta.messages import Task
from tests.coordinator.functions import Start
from tests.waiting import eventually

WATCHERS = 1000
GRAPH: dict[str, Any] = {"steps": [{"id": "work", "agent": "hold"}]}


class Audience:
    """Watchers of one run; each follows it to its end as a stream of the gateway's does. `log`: what was seen when."""

    def __init__(self, service: CoordinatorService, run: RunId, log: list[str]) -> None:
        self._service, self._run, self._log = service, run, log
        self.seen: Counter[str] = Counter()
        self._tasks = [asyncio.create_task(self._follow()) for _ in range(WATCHERS)]

    async def _follow(self) -> list[int]:
        seqs: list[int] = []
        cursor = -1
        while True:
            watch = await self._service.watch(T, self._run, seqs[-1] if seqs else 0, cursor, 3600)
            cursor = watch.cursor
            for event in watch.events:
                self.seen[event.type] += 1
                self._log.append(f"watcher saw {event.type}")
                if event.seq:
                    seqs.append(event.seq)
            if watch.over:
                return seqs

    async def ends(self) -> list[list[int]]:
        return await asyncio.gather(*self._tasks)


async def watched(start: Start, log: list[str]) -> tuple[CoordinatorService, Any, RunId, Audience]:
    """A run whose step is at work, and all of its watchers have seen that."""

    async def hold(task: Task) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            log.append("step stopped")

    service, runtime = await start(GRAPH, {"hold": hold})
    record = await service.submit(Submission("g", {}, T))
    audience = Audience(service, record.id, log)
    await eventually(lambda: audience.seen["step_started"] == WATCHERS, "all having seen the step begin")
    return service, runtime, record.id, audience


async def test_a_cancel_is_acknowledged_and_reaches_the_step_before_any_watcher_hears_of_it(start: Start):
    log: list[str] = []
    service, runtime, run, audience = await watched(start, log)
    # Tokens, so that all of them are awake and reading when the cancel comes.
    service.pass_on([Event(run, 0, "token", 0.0, StepKey("work"), data={"text": "x"})])
    log.clear()

    await service.cancel(T, run)

    log.append("acknowledged")
    # Those that were awake may have been told of the token meanwhile, none of the end.
    assert "watcher saw run_cancelled" not in log
    ends = await audience.ends()
    assert log.index("step stopped") < log.index("watcher saw run_cancelled")
    assert runtime.stopped == ["work"]
    assert log.count("watcher saw run_cancelled") == WATCHERS
    # Each of them has seen all of it.
    seqs = [event.seq for event in await service.journal.events(run)]
    assert ends == [seqs] * WATCHERS


async def test_a_cancel_does_without_what_the_watchers_are_waiting_for(start: Start):
    """Every thread that reads the journal for watchers hangs, and all of the watchers with them."""
    log: list[str] = []
    service, runtime, run, audience = await watched(start, log)
    go_on = threading.Event()
    stuck = [
        asyncio.get_running_loop().run_in_executor(service.journal._readers, go_on.wait)
        for _ in range(READERS)
    ]
    service.pass_on([Event(run, 0, "token", 0.0, StepKey("work"), data={"text": "x"})])
    log.clear()

    try:
        record = await service.cancel(T, run)
        await eventually(lambda: bool(log), "something happening")
        assert (record.cancel_requested, log) == (True, ["step stopped"])
        assert runtime.stopped == ["work"]
        await eventually(lambda: not service.live.drives(run), "the run being over")
        assert log == ["step stopped"]
    finally:
        go_on.set()
    await asyncio.gather(*stuck)
    await audience.ends()
    assert audience.seen["run_cancelled"] == WATCHERS
    assert (await service.journal.get_run(T, run)).status == "interrupted"
