"""Tasks taken in lists, results fetched in lists: none lost, none done twice."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agents.workload import FORGOTTEN_S, TaskId, Workload, task_id
from manta.clock import ManualClock
from manta.errors import InvalidConfig
from manta.messages import CallScope, Task, TaskResult


def a_task(step: str, attempt: int = 1, epoch: int = 1) -> Task:
    return Task(CallScope("run", step, attempt=attempt, epoch=epoch), "agent", {})  # type: ignore[arg-type]


class Gated:
    """Does a task once its gate is open; remembers what it began and what was stopped."""

    def __init__(self) -> None:
        self.began: list[TaskId] = []
        self.stopped: list[TaskId] = []
        self.gates: dict[str, asyncio.Event] = {}

    async def __call__(self, task: Task) -> TaskResult:
        self.began.append(task_id(task))
        try:
            await self.gates.setdefault(task.scope.step, asyncio.Event()).wait()
        except asyncio.CancelledError:
            self.stopped.append(task_id(task))
            raise
        return TaskResult(output=task.scope.step)

    def open(self, *steps: str) -> None:
        for step in steps:
            self.gates.setdefault(step, asyncio.Event()).set()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


def outputs(results: list[tuple[TaskId, TaskResult]]) -> list[Any]:
    return sorted(result.output for _, result in results)


async def test_whoever_collects_waits_for_the_first_and_gets_all_there_are():
    agent = Gated()
    work = Workload(agent)
    work.take("c", [a_task("a"), a_task("b"), a_task("slow")])
    collecting = asyncio.create_task(work.collect("c", []))
    await until(lambda: len(agent.began) == 3)
    assert not collecting.done()
    agent.open("a", "b")
    assert outputs(await collecting) == ["a", "b"]
    assert work.busy == 1


async def test_results_stay_until_they_are_said_to_have_arrived():
    agent = Gated()
    agent.open("a", "b")
    work = Workload(agent)
    first = await work.collect("c", [], [a_task("a")])
    # As if that answer had been lost on its way.
    assert await work.collect("c", []) == first
    second = await work.collect("c", [identity for identity, _ in first], [a_task("b")])
    assert outputs(second) == ["b"]


async def test_a_task_that_is_known_here_is_not_begun_again():
    agent = Gated()
    work = Workload(agent)
    work.take("c", [a_task("a"), a_task("a")])
    await until(lambda: agent.began)
    work.take("c", [a_task("a")])
    agent.open("a")
    results = await work.collect("c", [])
    work.take("c", [a_task("a")])
    assert await work.collect("c", []) == results
    assert len(agent.began) == len(results) == 1


async def test_each_client_gets_its_own():
    agent = Gated()
    work = Workload(agent)
    work.take("one", [a_task("a")])
    work.take("two", [a_task("b")])
    agent.open("a", "b")
    assert outputs(await work.collect("two", [])) == ["b"]
    assert outputs(await work.collect("one", [])) == ["a"]


async def test_a_cancelled_task_is_stopped_and_leaves_no_result():
    agent = Gated()
    work = Workload(agent, longest_wait_s=0)
    work.take("c", [a_task("a"), a_task("b")])
    # Also one that has not begun yet, in the same turn of the loop.
    await work.cancel("run", "b")  # type: ignore[arg-type]
    await until(lambda: agent.began)
    await work.cancel("run", "a")  # type: ignore[arg-type]
    assert [identity[1] for identity in agent.began] == ["a"]
    assert [identity[1] for identity in agent.stopped] == ["a"]
    assert await work.collect("c", []) == []
    assert work.busy == 0


async def test_a_wait_without_results_ends_after_a_while():
    work = Workload(Gated(), longest_wait_s=0)
    assert await work.collect("c", [], [a_task("a")]) == []


@pytest.mark.parametrize("error", [InvalidConfig("cannot import it"), RuntimeError("a defect")])
async def test_an_agent_that_cannot_be_built_fails_its_tasks(error: Exception):
    async def perform(task: Task) -> TaskResult:
        raise error

    ((_, result),) = await Workload(perform).collect("c", [], [a_task("a")])
    assert result.error is not None
    assert (error.args[0] in result.error["message"]) or str(error) in result.error["message"]


async def test_the_results_of_a_client_that_died_are_dropped():
    clock = ManualClock()
    agent = Gated()
    agent.open("a", "b")
    work = Workload(agent, clock=clock, longest_wait_s=0)
    work.take("dead", [a_task("a")])
    await until(lambda: work.busy == 0)
    await clock.advance(FORGOTTEN_S + 1)
    await work.collect("alive", [])
    assert await work.collect("dead", []) == []
