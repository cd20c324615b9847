"""Places, queues, threads, budgets of time, drains: what a coordinator takes on and how it lets go."""

import asyncio
from typing import Any

import pytest

from coordinator.submission import Submission, tighter
from manta.clock import ManualClock
from manta.config import LimitSettings
from manta.errors import Conflict, Overloaded, Unavailable
from manta.ids import DEFAULT_TENANT as T
from manta.ids import RunId, Tenant
from manta.messages import Budget, Task
from tests.coordinator.functions import Start, run

ONE = {"steps": [{"id": "s", "agent": "s", "input": {"n": "${input.n}"}}]}


class Gate:
    """An agent that works until it is let go, and remembers who was at work."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.began: list[Any] = []
        self.at_once = 0
        self._now = 0

    async def __call__(self, task: Task) -> Any:
        self.began.append(task.input.get("n"))
        self._now += 1
        self.at_once = max(self.at_once, self._now)
        try:
            await self.open.wait()
        finally:
            self._now -= 1
        return task.input.get("n")


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def test_runs_over_the_limit_queue_and_all_end(start: Start):
    gate = Gate()
    service, _ = await start(ONE, {"s": gate}, limits=LimitSettings(active_runs=3))
    runs = [await service.submit(Submission("g", {"n": n}, T)) for n in range(10)]
    await until(lambda: len(gate.began) == 3)
    assert service.health()["queued"] == 7
    gate.open.set()
    ended = [await service.wait(T, record.id, 30) for record in runs]
    assert [record.output for record in ended] == list(range(10))
    assert gate.at_once <= 3


async def test_a_full_queue_refuses_and_says_so(start: Start):
    gate = Gate()
    service, _ = await start(ONE, {"s": gate}, limits=LimitSettings(active_runs=1, queued_runs=1))
    for n in range(2):
        await service.submit(Submission("g", {"n": n}, T))
    with pytest.raises(Overloaded) as caught:
        await service.submit(Submission("g", {"n": 3}, T))
    assert caught.value.http_status == 429
    gate.open.set()


async def test_queued_runs_outlive_their_coordinator_in_order_of_priority(start: Start):
    gate = Gate()
    limits = LimitSettings(active_runs=1)
    service, _ = await start(ONE, {"s": gate}, limits=limits)
    for n, priority in ((0, 0), (1, 5), (2, -5)):
        await service.submit(Submission("g", {"n": n}, T, priority=priority))
    await until(lambda: gate.began == [0])
    await service.close()
    again = Gate()
    again.open.set()
    successor, _ = await start(ONE, {"s": again}, limits=limits)
    records = await successor.search(T)
    for record in records:
        assert (await successor.wait(T, RunId(record.id), 30)).status == "success"
    # The one that was at work goes on first, the others by priority.
    assert again.began == [0, 2, 1]


async def test_priorities_order_those_that_wait_for_a_place(start: Start):
    gate = Gate()
    service, _ = await start(ONE, {"s": gate}, places=1)
    records = [await service.submit(Submission("g", {"n": 0}, T))]
    await until(lambda: gate.began == [0])
    for n, priority in ((1, 3), (2, 1), (3, 2)):
        records.append(await service.submit(Submission("g", {"n": n}, T, priority=priority)))
    await asyncio.sleep(0.1)
    gate.open.set()
    for record in records:
        await service.wait(T, record.id, 30)
    assert gate.began == [0, 2, 3, 1]


async def test_a_graphs_own_limit(start: Start):
    gate = Gate()
    service, _ = await start({**ONE, "max_active": 1}, {"s": gate})
    mine = [await service.submit(Submission("g", {"n": n}, T)) for n in range(3)]
    await service.submit(Submission("g", {"n": "other"}, Tenant("other")))
    await until(lambda: sorted(map(str, gate.began)) == ["0", "other"])
    gate.open.set()
    for record in mine:
        assert (await service.wait(T, record.id, 30)).status == "success"


async def test_a_graphs_own_limit_holds_for_runs_that_waited_for_a_person(start: Start):
    gate = Gate()
    asked = {"id": "ok", "approval": {"question": "?"}}
    work = {"id": "s", "agent": "s", "input": {"n": "${input.n}"}, "needs": ["ok"]}
    service, _ = await start({"max_active": 1, "steps": [asked, work]}, {"s": gate})
    waiting = [await run(service, {"n": n}) for n in range(3)]
    for record in waiting:
        await service.decide(T, record.id, None, "approve", by="ann")
    await until(lambda: gate.began and service.health()["queued"] == 2)
    gate.open.set()
    for record in waiting:
        assert (await service.wait(T, record.id, 30)).status == "success"
    assert (gate.began, gate.at_once) == ([0, 1, 2], 1)


async def test_a_thread_has_one_run_at_a_time_and_remembers(start: Start):
    gate = Gate()
    graph = {
        "chat": True,
        "steps": [
            {"id": "s", "agent": "s", "input": {"n": "${length(thread.messages)}"}},
        ],
        "output": {"messages": [{"role": "assistant", "content": "${steps.s}"}], "seen": "${steps.s}"},
    }
    service, _ = await start(graph, {"s": gate})
    thread = (await service.library("threads", "create", T, None, {}, "raise")).id
    value = {"messages": [{"role": "user", "content": "hi"}]}
    first = await service.submit(Submission("g", value, T, thread=thread))
    second = await service.submit(Submission("g", value, T, thread=thread))
    with pytest.raises(Conflict) as busy:
        await service.submit(Submission("g", value, T, thread=thread, reject_if_busy=True))
    assert busy.value.code == "thread_busy"
    await until(lambda: gate.began == [0])
    gate.open.set()
    assert (await service.wait(T, first.id, 30)).output["seen"] == 0
    assert (await service.wait(T, second.id, 30)).output["seen"] == 2
    state = await service.library("threads", "state", T, thread)
    assert [m["role"] for m in state.messages] == ["user", "assistant", "user", "assistant"]
    assert state.values == {"seen": 2}


async def test_a_budget_of_seconds_ends_the_step_and_keeps_what_was_done(start: Start):
    clock, gate = ManualClock(), Gate()
    graph = {
        "steps": [
            {"id": "first", "agent": "quick"},
            {"id": "slow", "agent": "s", "needs": ["first"], "retry": {"attempts": 1}},
        ]
    }
    service, _ = await start(graph, {"s": gate, "quick": lambda task: "done"}, clock)
    record = await service.submit(Submission("g", {}, T, budget=Budget(seconds=30)))
    await until(lambda: gate.began)
    for _ in range(5):
        await clock.advance(10)
        await asyncio.sleep(0.02)
    ended = await service.wait(T, record.id, 0)
    await until(lambda: not service.live.drives(record.id))
    ended, steps = await service.get(T, record.id)
    assert (ended.status, ended.reason) == ("error", "budget_exceeded")
    assert {step.key: step.state for step in steps} == {"first": "done", "slow": "failed"}


def test_the_tighter_of_two_budgets():
    assert tighter(None, Budget(tokens=5)) == Budget(tokens=5)
    assert tighter(Budget(tokens=9, seconds=1), Budget(tokens=5, money=2)) == Budget(
        tokens=5, seconds=1, money=2
    )


async def test_a_drained_coordinator_lets_steps_end_and_leaves_the_rest(start: Start):
    gate = Gate()
    graph = {
        "steps": [
            {"id": "s", "agent": "s", "input": {"n": 1}},
            {"id": "t", "agent": "s", "input": {"n": 2}, "needs": ["s"]},
        ]
    }
    service, first = await start(graph, {"s": gate})
    record = await service.submit(Submission("g", {}, T))
    await until(lambda: gate.began == [1])
    drain = asyncio.ensure_future(service.drain())
    await asyncio.sleep(0.05)
    with pytest.raises(Unavailable) as refused:
        await service.submit(Submission("g", {}, T))
    assert refused.value.code == "draining"
    gate.open.set()
    await drain
    left, steps = await service.get(T, record.id)
    assert (left.status, left.owner) == ("running", None)
    assert {step.key: step.state for step in steps} == {"s": "done"}
    successor, second = await start(graph, {"s": gate})
    assert (await successor.wait(T, record.id, 30)).status == "success"
    assert (first.count("s"), second.count("s"), second.count("t")) == (1, 0, 1)


async def test_a_hundred_runs_share_their_flushes(start: Start):
    graph = {
        "steps": [{"id": "a", "agent": "s", "input": {"n": 1}}]
        + [
            {"id": name, "agent": "s", "input": {"n": f"${{steps.{before}}}"}}
            for before, name in ("ab", "bc", "cd", "de")
        ]
    }
    service, _ = await start(graph, {"s": lambda task: task.input["n"]})
    before = service.journal.flushes
    records = await asyncio.gather(*(service.submit(Submission("g", {}, T)) for _ in range(100)))
    for record in records:
        assert (await service.wait(T, record.id, 60)).status == "success"
    # Alone each would take a creation, a start, one for each of five steps: 700.
    assert service.journal.flushes - before < 350


async def test_a_run_alone_flushes_once_for_each_step(start: Start):
    graph = {
        "steps": [{"id": "a", "agent": "s", "input": {"n": 1}}, {"id": "b", "agent": "s", "needs": ["a"]}]
    }
    service, _ = await start(graph, {"s": lambda task: 1})
    before = service.journal.flushes
    await run(service)
    # Created, first step started, its end with the second's start, the second's end with the run's.
    assert service.journal.flushes - before == 4
