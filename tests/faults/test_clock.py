"""The time of day jumps by an hour: durations stay what they are, and no run is lost or taken from the living."""

import asyncio
from pathlib import Path

import pytest

from manta.ids import StepKey
from manta.messages import Task
from tests.faults.colony import Colony, SteppingClock, T, forever, submit
from tests.faults.conftest import MakeColony

HOUR_S = 3600.0
BOTH_WAYS = pytest.mark.parametrize("jump", [HOUR_S, -HOUR_S])
HANGING = {"steps": [{"id": "s", "agent": "slow"}]}


def quick(task: Task) -> str:
    return "quick"


@BOTH_WAYS
async def test_a_run_has_its_time_whatever_the_clock_says(colony: MakeColony, tmp_path: Path, jump: float):
    them = colony(HANGING, f"sqlite:///{tmp_path}/journal.db")
    one = await them.add("one", {"slow": forever})
    run = await submit(one, timeout_s=60)
    await them.until(lambda: them.runtimes["one"].count("s"), "its step", step_s=0.01)
    began = them.clock.monotonic()
    them.clock.jump(jump)
    await them.pass_time(50)
    assert await them.state(run, "one") == "running"
    ended = await them.ended(run, "one")
    assert (ended.status, ended.reason) == ("timeout", "deadline")
    assert 58 <= them.clock.monotonic() - began < 120


@BOTH_WAYS
async def test_a_step_has_its_time_and_its_pauses(colony: MakeColony, tmp_path: Path, jump: float):
    retry = {"attempts": 3, "min_s": 8, "max_s": 8}
    them = colony(
        {"steps": [{"id": "s", "agent": "slow", "timeout_s": 20, "retry": retry}]},
        f"sqlite:///{tmp_path}/journal.db",
    )
    one = await them.add("one", {"slow": forever})
    run, tried = await submit(one), them.runtimes["one"]
    await them.until(lambda: tried.count("s") == 1, "the first try", step_s=0.01)
    them.clock.jump(jump)
    await them.pass_time(18)
    assert tried.stopped == []
    await them.until(lambda: len(tried.stopped) == 1, "its time-out")
    them.clock.jump(-2 * jump)
    paused = them.clock.monotonic()
    await them.until(lambda: tried.count("s") == 2, "the second try")
    assert 7 <= them.clock.monotonic() - paused < 60
    them.clock.jump(jump)
    ended = await them.ended(run, "one")
    assert (ended.error or {})["code"] == "step_timeout"
    assert tried.count("s") == 3


@BOTH_WAYS
async def test_a_question_beside_a_step_at_work_expires_in_its_time(
    colony: MakeColony, tmp_path: Path, jump: float
):
    ask = {"id": "ask", "approval": {"question": "?", "timeout_s": 60}, "on_error": "skip"}
    them = colony(
        {"steps": [ask, {"id": "then", "agent": "quick", "needs": ["ask"]}, {"id": "s", "agent": "slow"}]},
        f"sqlite:///{tmp_path}/journal.db",
    )
    one = await them.add("one", {"slow": forever, "quick": quick})
    await submit(one)
    await them.until(lambda: them.runtimes["one"].count("s"), "its step", step_s=0.01)
    them.clock.jump(jump)
    await them.pass_time(50)
    assert them.runtimes["one"].count("then") == 0
    await them.pass_time(12)
    await them.until(lambda: them.runtimes["one"].count("then"), "the step behind", step_s=0.01)


@BOTH_WAYS
async def test_a_question_that_rests_in_the_journal_expires_by_the_time_of_day(
    colony: MakeColony, tmp_path: Path, jump: float
):
    them = colony(
        {"steps": [{"id": "ask", "approval": {"question": "?", "timeout_s": 600}}]},
        f"sqlite:///{tmp_path}/journal.db",
    )
    one = await them.add("one", {})
    run = await submit(one)

    async def waits() -> bool:
        return await them.state(run, "one") == "waiting"

    await them.until(waits, "the question", step_s=0.01)
    them.clock.jump(jump)
    if jump < 0:
        await them.pass_time(60)
        assert await waits()
        # Nothing is lost: it comes later by what the clock was set back.
        them.clock.jump(HOUR_S + 600)
    ended = await them.ended(run, "one")
    assert (ended.error or {})["code"] == "approval_timeout"


@BOTH_WAYS
async def test_a_living_coordinator_keeps_its_runs_when_the_clock_jumps(colony: MakeColony, jump: float):
    them = colony(HANGING)
    one = await them.add("one", {"slow": forever})
    two = await them.add("two", {"slow": forever})
    run = await submit(one)
    await them.until(lambda: them.runtimes["one"].count("s"), "its step", step_s=0.01)
    await them.pass_time(3)
    them.clock.jump(jump)
    await them.pass_time(30)
    record, _ = await two.get(T, run)
    assert (record.owner, record.epoch) == ("one", 1)
    assert not them.runtimes["two"].tasks


async def test_the_runs_of_the_dead_do_not_wait_for_a_clock_that_was_set_back(colony: MakeColony):
    them = colony(HANGING)
    one = await them.add("one", {"slow": forever})
    await them.add("two", {"slow": quick})
    run = await submit(one)
    await them.until(lambda: them.runtimes["one"].count("s"), "its step", step_s=0.01)
    await them.die("one")
    await them.pass_time(2)
    them.clock.jump(-HOUR_S)
    began = them.clock.monotonic()
    assert (await them.ended(run, "two")).status == "success"
    assert them.clock.monotonic() - began < 120


async def test_a_coordinator_whose_own_clock_is_ahead_takes_runs_too_early_and_nothing_is_done_twice(
    colony: MakeColony,
):
    """Its host's clock is wrong for good: that costs work in flight, never what was recorded."""
    graph = {"steps": [{"id": "a", "agent": "quick"}, {"id": "b", "agent": "slow", "needs": ["a"]}]}
    them, ahead = colony(graph), SteppingClock()
    hold = asyncio.Event()

    async def held(task: Task) -> str:
        await hold.wait()
        return f"epoch {task.scope.epoch}"

    one = await them.add("one", {"quick": quick, "slow": held})
    run = await submit(one)
    await them.until(lambda: them.runtimes["one"].count("b"), "its step", step_s=0.01)
    ahead.jump(HOUR_S)
    two = await them.add("two", {"quick": quick, "slow": held}, clock=ahead)
    await _until(them, ahead, lambda: them.runtimes["two"].count("b"))
    hold.set()
    await _until(them, ahead, lambda: one.health()["active"] + two.health()["active"] == 0)
    record, steps = await one.get(T, run)
    assert (record.status, record.output) == ("success", "epoch 2")
    assert [(step.key, step.state) for step in steps] == [(StepKey("a"), "done"), (StepKey("b"), "done")]
    events = await one.journal.events(run)
    assert [event.type for event in events].count("step_done") == 2
    assert them.runtimes["two"].count("a") == 0


async def _until(them: Colony, other: SteppingClock, condition: object) -> None:
    async def both() -> bool:
        await other.advance(0.25)
        return bool(condition())  # type: ignore[operator]

    await them.until(both, "what both bring about")
