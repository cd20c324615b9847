"""Tasks in bursts to one actor and back: few calls, nothing lost when answers or the actor are."""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agents.workload import Results, TaskId, Workload, task_id
from coordinator.dispatch import COME_BACK_S, Member
from coordinator.retry import AGENT_LOST
from manta.clock import ManualClock
from manta.errors import StepError, Unavailable
from manta.ids import RunId, StepKey
from manta.messages import CallScope, Task, TaskResult


def a_task(step: str, attempt: int = 1) -> Task:
    return Task(CallScope(RunId("run"), StepKey(step), attempt=attempt), "agent", {})


class Actor:
    """The far side: a workload whose tasks end when they are let, and that can die."""

    def __init__(self) -> None:
        self.began: list[TaskId] = []
        self.stopped: list[TaskId] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.work = Workload(self.perform)
        self.died = asyncio.Event()

    async def perform(self, task: Task) -> TaskResult:
        self.began.append(task_id(task))
        try:
            await self.gate(task.scope.step).wait()
        except asyncio.CancelledError:
            self.stopped.append(task_id(task))
            raise
        return TaskResult(output=task.scope.step)

    def die(self) -> None:
        self.died.set()
        for identity in self.began:
            self.ending = asyncio.ensure_future(self.work.cancel(identity[0], identity[1]))

    def gate(self, step: str) -> asyncio.Event:
        return self.gates.setdefault(step, asyncio.Event())

    def let(self, *steps: str) -> None:
        for step in steps:
            self.gate(step).set()


def lost() -> Unavailable:
    return Unavailable("the actor died", code=AGENT_LOST)


class LocalLink:
    """A `Link` in this process. `calls` has what went over it, `drops` answers of collect to lose."""

    def __init__(self) -> None:
        self.actor = Actor()
        self.actors = [self.actor]
        self.calls: list[tuple[str, int]] = []
        self.drops = 0
        self.opened = 0
        self.absent = 0

    async def open(self) -> None:
        self.opened += 1
        if self.absent:
            self.absent -= 1
            raise lost()
        if self.actor.died.is_set():
            self.actor = Actor()
            self.actors.append(self.actor)

    async def take(self, tasks: Sequence[Task]) -> None:
        self.calls.append(("take", len(tasks)))
        await self._alive(self._take(tasks))

    async def _take(self, tasks: Sequence[Task]) -> None:
        self.actor.work.take("me", tasks)

    async def collect(self, fetched: Sequence[TaskId], tasks: Sequence[Task]) -> Results:
        self.calls.append(("collect", len(tasks)))
        results: Results = await self._alive(self.actor.work.collect("me", fetched, tasks))
        if self.drops:
            self.drops -= 1
            raise lost()
        return results

    async def _alive(self, call: Any) -> Any:
        """The call's answer, unless the actor dies first."""
        died = self.actor.died
        answer, death = asyncio.ensure_future(call), asyncio.ensure_future(died.wait())
        await asyncio.wait({answer, death}, return_when=asyncio.FIRST_COMPLETED)
        death.cancel()
        if died.is_set():
            answer.cancel()
            raise lost()
        return await answer

    def cancel(self, run: RunId, step: StepKey) -> None:
        self.cancelling = asyncio.ensure_future(self.actor.work.cancel(run, step))


@pytest.fixture
def link() -> LocalLink:
    return LocalLink()


def start(member: Member, *steps: str) -> list[asyncio.Task[TaskResult]]:
    return [asyncio.create_task(member.perform(a_task(step))) for step in steps]


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def outputs(work: list[asyncio.Task[TaskResult]]) -> list[Any]:
    async with asyncio.timeout(10):
        return [(await one).output for one in work]


async def test_a_burst_goes_out_in_one_call_and_comes_back_in_one(link: LocalLink):
    member = Member(link)
    steps = [f"s{n}" for n in range(20)]
    link.actor.let(*steps)
    assert await outputs(start(member, *steps)) == steps
    assert link.calls == [("collect", 20)]
    assert member.busy == 0


async def test_a_lone_task_costs_one_call(link: LocalLink):
    member = Member(link)
    link.actor.let("a", "b")
    for step in ("a", "b"):
        assert await outputs(start(member, step)) == [step]
    assert link.calls == [("collect", 1), ("collect", 1)]


async def test_while_results_are_awaited_more_tasks_go_along(link: LocalLink):
    member = Member(link)
    first = start(member, "slow")
    await until(lambda: link.actor.began)
    later = start(member, "a", "b")
    await until(lambda: len(link.actor.began) == 3)
    link.actor.let("a")
    assert await outputs(later[:1]) == ["a"]
    link.actor.let("b", "slow")
    assert await outputs([*later[1:], *first]) == ["b", "slow"]
    assert link.calls[:2] == [("collect", 1), ("take", 2)]


async def test_cancelling_stops_the_work_there_and_no_other(link: LocalLink):
    member = Member(link)
    one, other = start(member, "one", "other")
    await until(lambda: len(link.actor.began) == 2)
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    await until(lambda: link.actor.stopped)
    assert [identity[1] for identity in link.actor.stopped] == ["one"]
    link.actor.let("other")
    assert await outputs([other]) == ["other"]


@pytest.mark.parametrize("turns", range(5))
async def test_what_is_cancelled_on_its_way_never_runs_on(link: LocalLink, turns: int):
    member = Member(link)
    await member.open()
    one, other = start(member, "one", "other")
    for _ in range(turns):
        await asyncio.sleep(0)
    one.cancel()
    link.actor.let("other")
    assert await outputs([other]) == ["other"]
    await until(lambda: link.actor.work.busy == 0)
    assert link.actor.began.count(task_id(a_task("one"))) == len(link.actor.stopped)


async def test_when_the_actor_dies_its_tasks_are_lost_at_once_and_the_next_wait_for_it(link: LocalLink):
    member = Member(link)
    work = start(member, "a", "b")
    await until(lambda: len(link.actor.began) == 2)
    dead = link.actor
    dead.die()
    for one in work:
        with pytest.raises(Unavailable) as caught:
            await one
        assert caught.value.code == AGENT_LOST
    again = start(member, "c")
    await until(lambda: link.actor is not dead)
    link.actor.let("c")
    assert await outputs(again) == ["c"]
    assert not member.lost
    assert link.opened == 2


async def test_a_lost_actor_is_waited_for_although_nobody_asks_it(link: LocalLink):
    clock = ManualClock()
    member = Member(link, clock)
    (work,) = start(member, "a")
    await until(lambda: link.actor.began)
    link.absent = 2
    link.actor.die()
    with pytest.raises(Unavailable):
        await work
    for _ in range(2):
        await until(lambda: clock.sleeping)
        assert member.lost
        await clock.advance(COME_BACK_S)
    await until(lambda: not member.lost)
    assert link.opened == 1 + 3


async def test_a_result_whose_answer_was_lost_is_fetched_by_the_next(link: LocalLink):
    member = Member(link)
    link.drops = 1
    link.actor.let("a")
    with pytest.raises(Unavailable):
        await member.perform(a_task("a"))
    # The same attempt again: its result is still there, so it is not done twice.
    assert (await member.perform(a_task("a"))).output == "a"
    assert len(link.actor.began) == 1


async def test_a_task_that_cannot_be_sent_fails_alone(link: LocalLink):
    class Picky(LocalLink):
        async def take(self, tasks: Sequence[Task]) -> None:
            raise StepError("cannot be pickled")

    picky = Picky()
    member = Member(picky)
    (first,) = start(member, "first")
    await until(lambda: picky.actor.began)
    (second,) = start(member, "second")
    with pytest.raises(StepError, match="pickled"):
        await second
    picky.actor.let("first")
    assert await outputs([first]) == ["first"]


@pytest.mark.parametrize("seed", range(30))
async def test_whatever_happens_every_task_ends(seed: int):
    """Tasks, results, cancels and deaths in any order: each caller hears an end, no attempt is begun twice."""
    draw = random.Random(seed)
    link = LocalLink()
    member = Member(link)
    work: list[asyncio.Task[TaskResult]] = []
    for number in range(60):
        work += start(member, f"s{number}")
        for _ in range(draw.randrange(4)):
            await asyncio.sleep(0)
        match draw.randrange(8):
            case 0:
                draw.choice(work).cancel()
            case 1:
                link.actor.die()
            case _:
                link.actor.let(f"s{draw.randrange(number + 1)}")
    async with asyncio.timeout(10):
        while not all(one.done() for one in work):
            link.actor.let(*(f"s{number}" for number in range(60)))
            await asyncio.sleep(0)
    ends = await asyncio.gather(*work, return_exceptions=True)
    for number, end in enumerate(ends):
        done = isinstance(end, TaskResult) and end.output == f"s{number}"
        assert done or isinstance(end, asyncio.CancelledError) or getattr(end, "code", "") == AGENT_LOST
    began = [identity for actor in link.actors for identity in actor.began]
    assert len(began) == len(set(began))
    assert len(link.actors) > 1
    assert member.busy == 0
