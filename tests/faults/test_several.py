"""Several coordinators on one PostgreSQL: who has which run, and what becomes of the runs of the dead."""

import asyncio

import pytest

from manta.errors import StaleEpoch
from manta.ids import RunId, StepKey, ThreadId
from manta.messages import CallIntent, CallScope, Task
from tests.faults.colony import Colony, T, forever, submit
from tests.faults.conftest import MakeColony

CHAIN = {"steps": [{"id": "one", "agent": "quick"}, {"id": "two", "agent": "slow", "needs": ["one"]}]}
ASKING = {
    "steps": [
        {"id": "check", "approval": {"question": "Go on?", "show": 1}},
        {"id": "then", "agent": "quick", "needs": ["check"]},
        {"id": "beside", "agent": "slow", "when": "${input.busy}"},
    ],
    "output": "${steps.then}",
}
THREAD = ThreadId("00000000-0000-4000-8000-00000000feed")


def quick(task: Task) -> str:
    return "quick"


async def test_the_runs_of_the_dead_are_taken_when_the_lease_is_over_and_not_before(
    colony: MakeColony,
):
    them = colony(CHAIN)
    one = await them.add("one", {"quick": quick, "slow": forever})
    two = await them.add("two", {"quick": quick, "slow": lambda task: "done by two"})
    run = await submit(one)
    await them.until(lambda: them.runtimes["one"].count("two"), "its second step")
    last = them.clock.now()
    # The living keeps its run however long it takes.
    await them.pass_time(25)
    assert them.clock.now() - last >= 25
    assert (await two.get(T, run))[0].owner == "one"
    await them.die("one")
    await them.pass_time(6)
    record, _ = await two.get(T, run)
    assert (record.owner, record.epoch) == ("one", 1)
    ended = await them.ended(run, "two")
    assert (ended.status, ended.output, ended.epoch) == ("success", "done by two", 2)
    assert them.runtimes["two"].count("one") == 0


async def test_what_is_asked_of_another_coordinator_reaches_the_one_that_drives_the_run(
    colony: MakeColony,
):
    them = colony(ASKING)
    one = await them.add("one", {"quick": quick, "slow": forever})
    two = await them.add("two", {"quick": quick, "slow": forever})
    # At work: the answer is carried to the owner, and the cancel too.
    run = await submit(one, {"busy": True})
    await them.until(lambda: them.runtimes["one"].count("beside"), "its step")
    await two.decide(T, run, StepKey("check"), "approve", by="someone")
    await them.until(lambda: them.runtimes["one"].count("then"), "the step behind the answer")
    await two.cancel(T, run)
    ended = await them.ended(run, "two")
    assert (ended.status, ended.reason, ended.epoch) == ("interrupted", "cancelled", 1)
    assert them.runtimes["one"].stopped == ["beside"]
    # At rest: whoever is answered goes on with it.
    run = await submit(one, {"busy": False})
    await them.until(lambda: _is(them, run, "waiting"), "the question")
    await two.decide(T, run, None, "approve", by="someone")
    ended = await them.ended(run, "one")
    assert (ended.status, ended.output, ended.owner) == ("success", "quick", "two")
    # At rest, and not wanted any more.
    run = await submit(one, {"busy": False})
    await them.until(lambda: _is(them, run, "waiting"), "the question")
    await two.cancel(T, run)
    assert (await them.ended(run, "one")).reason == "cancelled"


async def _is(them: Colony, run: RunId, status: str) -> bool:
    return await them.state(run, "two") == status


async def test_a_watcher_at_another_coordinator_sees_all_of_it(colony: MakeColony):
    hold = asyncio.Event()

    async def held(task: Task) -> str:
        await hold.wait()
        return "held"

    them = colony(CHAIN)
    one = await them.add("one", {"quick": quick, "slow": held})
    two = await them.add("two", {"quick": quick, "slow": forever})
    run = await submit(one)
    seen: list[int] = []

    async def watch() -> None:
        over, cursor = False, -1
        while not over:
            news = await two.watch(T, run, seen[-1] if seen else 0, cursor, 20.0)
            seen.extend(event.seq for event in news.events if event.seq)
            over, cursor = news.over, news.cursor

    watching = asyncio.create_task(watch())
    await them.until(lambda: len(seen) >= 3, "the first events")
    hold.set()
    await them.until(watching.done, "the end of the stream")
    await watching
    assert seen == list(range(1, 7))


async def test_a_drained_coordinator_hands_over_within_the_grace(colony: MakeColony):
    hold = asyncio.Event()

    async def held(task: Task) -> str:
        if task.input["n"] == 1:
            await hold.wait()
            return "by one"
        return await forever(task)  # type: ignore[func-returns-value]

    graph = {
        "steps": [
            {"id": "one", "agent": "slow", "input": {"n": "${input.n}"}},
            {"id": "two", "agent": "quick", "needs": ["one"]},
        ],
        "output": "${steps.one}",
    }
    them = colony(graph)
    one = await them.add("one", {"quick": quick, "slow": held}, lease_s=3600)
    await them.add("two", {"quick": quick, "slow": lambda task: "by two"}, lease_s=3600)
    ends, hangs = await submit(one, {"n": 1}), await submit(one, {"n": 2})
    await them.until(lambda: them.runtimes["one"].count("one") == 2, "both steps")
    began = them.clock.now()
    draining = asyncio.create_task(one.drain(5.0))
    await asyncio.sleep(0)
    hold.set()
    # What has ended its step starts no other here; the rest is let go when the grace is over.
    while them.clock.now() - began < 5.5:
        if them.clock.now() - began < 5.0:
            assert not draining.done()
        await them.clock.advance(0.25)
        await asyncio.sleep(0.005)
    async with asyncio.timeout(20):
        await draining
    assert them.runtimes["one"].count("two") == 0
    first, second = await them.ended(ends, "two"), await them.ended(hangs, "two")
    assert (first.output, second.output) == ("by one", "by two")
    # Nobody died: that is not counted against them.
    assert (first.takeovers, second.takeovers) == (0, 0)
    # Long before the lease would have been over.
    assert them.clock.now() - began < 60


async def test_a_thread_is_not_blocked_by_a_run_that_another_coordinator_has_ended(
    colony: MakeColony,
):
    them = colony(ASKING)
    one = await them.add("one", {"quick": quick, "slow": forever})
    two = await them.add("two", {"quick": quick, "slow": forever})
    await one.library("threads", "create", T, THREAD)
    run = await submit(one, {"busy": False}, thread=THREAD)
    await them.until(lambda: _is(them, run, "waiting"), "the question")
    await two.decide(T, run, None, "approve", by="someone")
    assert (await them.ended(run, "one")).owner == "two"
    await them.die("two")
    later = await submit(one, {"busy": False}, thread=THREAD)

    async def asked() -> bool:
        return await them.state(later, "one") == "waiting"

    await them.until(asked, "its turn on the thread")


async def test_a_run_that_queues_for_a_busy_thread_can_be_cancelled(colony: MakeColony):
    them = colony(ASKING)
    one = await them.add("one", {"quick": quick, "slow": forever})
    await one.library("threads", "create", T, THREAD)
    first = await submit(one, {"busy": False}, thread=THREAD)

    async def asked() -> bool:
        return await them.state(first, "one") == "waiting"

    await them.until(asked, "the question")
    second = await submit(one, {"busy": False}, thread=THREAD)
    await one.cancel(T, second)
    ended = await them.ended(second, "one")
    assert (ended.status, ended.reason) == ("interrupted", "cancelled")
    assert await them.state(first, "one") == "waiting"


async def test_a_claim_ends_what_was_written_under_the_one_before(colony: MakeColony):
    """The zombie's view: every kind of write of an older epoch is refused."""
    them = colony(CHAIN)
    one = await them.add("one", {"quick": quick, "slow": forever})
    await them.add("two", {"quick": quick, "slow": forever})
    run = await submit(one)
    await them.until(lambda: them.runtimes["one"].count("two"), "its second step")
    late = CallScope(run, StepKey("two"), T, attempt=1, epoch=1)
    intent = CallIntent(late, "k", "tool", "t", "h", {}, False)
    assert await one.begin_call(intent) is None
    # It stands still, so that its lease runs out.
    assert one._vigil is not None
    one._vigil.cancel()
    await them.until(lambda: them.runtimes["two"].count("two"), "the take-over")
    with pytest.raises(StaleEpoch):
        await one.begin_call(intent)
    # The first one notices, and lets go of it.
    await one.cancel(T, run)
    ended = await them.ended(run, "two")
    assert (ended.status, ended.epoch, ended.owner) == ("interrupted", 2, "two")
    await them.until(lambda: one.health()["active"] == 0, "letting go")
