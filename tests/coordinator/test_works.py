"""A step that is stopped leaves nothing behind, whatever moment it is stopped at."""

import asyncio
from typing import Any

import pytest

from coordinator.alarms import Alarms
from coordinator.scheduler import Start
from coordinator.store.records import RunRecord
from coordinator.watch import Watchers
from coordinator.works import Surroundings, Works
from manta.clock import ManualClock
from manta.errors import RunCancelled
from manta.graph import Step
from manta.ids import DEFAULT_TENANT, StepKey, new_run_id
from manta.messages import Budget, Task, Usage
from tests.coordinator.functions import FunctionRuntime

RECORD = RunRecord(
    id=new_run_id(),
    tenant=DEFAULT_TENANT,
    principal="someone",
    graph_name="g",
    graph_version="v",
    graph={},
    input={},
    metadata={},
    status="running",
    reason=None,
    error=None,
    output=None,
    usage=Usage(),
    epoch=1,
    owner="me",
    cancel_requested=False,
    deadline=None,
    created_at=0.0,
    updated_at=0.0,
    budget=Budget(seconds=60),
)


def start(key: str) -> Start:
    return Start(StepKey(key), Step(id="s", agent="a"), None, {}, {}, (), 0, 0)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("moment", ["placed", "dispatched", "at work", "waiting for a place"])
async def test_a_stopped_step_gives_its_place_back(moment: str):
    async def hang(task: Task) -> None:
        await asyncio.Event().wait()

    clock = ManualClock()
    runtime = FunctionRuntime({"a": hang}, places=1)
    journal: Any = None
    works = Works(
        RECORD, Surroundings(journal, runtime, Watchers(), clock, Alarms(clock), "me"), lambda: None
    )
    other = runtime.try_place("a") if moment == "waiting for a place" else None
    works.begin(start("s"), 1)
    for work in works.placed():
        if moment != "placed":
            works.dispatch(work, Usage())
    if moment == "at work":
        await settle()
    assert works.stop(StepKey("s"), RunCancelled("stopped")) is not None
    if other is not None:
        other.release()
    await settle()
    assert runtime.try_place("a") is not None
    # Its time is over too: an hour later no budget of seconds is used up.
    await clock.advance(3600)
    await settle()
    assert works.ended() == []
    assert len(works) == 0


async def test_stopping_all_waits_for_those_that_were_stopped_before():
    stopped: list[str] = []

    async def slow_to_stop(task: Task) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(5 if task.scope.step == "one" else 1):
                await settle()
            stopped.append(task.scope.step)

    clock = ManualClock()
    runtime = FunctionRuntime({"a": slow_to_stop})
    journal: Any = None
    works = Works(
        RECORD, Surroundings(journal, runtime, Watchers(), clock, Alarms(clock), "me"), lambda: None
    )
    for key in ("one", "two"):
        works.begin(start(key), 1)
    for work in works.placed():
        works.dispatch(work, Usage())
    await settle()
    works.stop(StepKey("one"), RunCancelled("stopped"))
    assert [work.key for work in await works.stop_all()] == ["two"]
    assert sorted(stopped) == ["one", "two"]
