"""The answer is lost, the request comes again: it was carried out once, and is answered as the first time."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from coordinator.store.journal import Journal
from coordinator.store.library_schema import schedules, thread_states
from coordinator.store.records import DecisionTaken, RunChange, RunRecord
from manta.clock import ManualClock
from manta.errors import Conflict, IdempotencyConflict, NotFound
from manta.ids import StepKey, ThreadId
from manta.messages import Budget
from tests.store.library_support import finished, message, rows
from tests.store.support import OTHER, TENANT, at_work, claimed, done, failed, held

FIRST = ThreadId("00000000-0000-4000-8000-000000000001")
SECOND = ThreadId("00000000-0000-4000-8000-000000000002")


@pytest.fixture
async def next_one(url: str, journal: Journal, clock: ManualClock) -> AsyncIterator[Journal]:
    """The journal of the coordinator that comes after the one that died before it could answer."""
    opened = await Journal.open(url, clock)
    yield opened
    await opened.close()


async def asking(journal: Journal, *keys: str) -> RunRecord:
    run = await at_work(journal)
    await journal.commit(run.id, 1, [*(held(key) for key in keys), RunChange("waiting", reason="waiting")])
    return run


def approve(journal: Journal, run: RunRecord, key: str | None, action: Any = "approve", **more: Any) -> Any:
    return journal.decide(TENANT, run.id, more.get("step"), action, None, "", "ann", key)


async def test_feedback_is_kept_once(journal: Journal, next_one: Journal, clock: ManualClock):
    run = await finished(journal)
    first = await journal.feedback.add(TENANT, run.id, "ann", 5, "good", "one")
    await clock.advance(5)
    assert await next_one.feedback.add(TENANT, run.id, "ann", 5, "good", "one") == first
    with pytest.raises(IdempotencyConflict):
        await next_one.feedback.add(TENANT, run.id, "ann", 4, "good", "one")
    await next_one.feedback.add(TENANT, run.id, "ann", 5, "good", "two")
    assert [said.id for said in await journal.feedback.list(TENANT, run.id)] == ["one", "two"]


async def test_a_schedule_is_made_once(journal: Journal, next_one: Journal, clock: ManualClock):
    async def make(at: Journal, graph: str = "g", cron: str = "0 7 * * *", tenant: Any = TENANT) -> Any:
        return await at.schedules.create(tenant, "ann", graph, {"a": [1]}, cron, schedule="mine")

    first = await make(journal)
    await clock.advance(5)
    assert await make(next_one) == first
    with pytest.raises(IdempotencyConflict):
        await make(next_one, cron="0 8 * * *")
    patched = await next_one.schedules.patch(TENANT, "mine", cron="0 9 * * *")
    assert await make(next_one) == patched
    with pytest.raises(IdempotencyConflict):
        await make(next_one, graph="other")
    # An id is of its tenant.
    assert (await make(journal, tenant=OTHER)).tenant == OTHER
    assert await rows(journal, schedules) == 2


async def test_a_schedule_that_two_coordinators_are_asked_for_is_one(journal: Journal, next_one: Journal):
    made = await asyncio.gather(
        *(
            at.schedules.create(TENANT, "ann", "g", {}, "* * * * *", schedule=f"s{n}")
            for n in range(5)
            for at in (journal, next_one) * 2
        )
    )
    assert len({schedule.id for schedule in made}) == await rows(journal, schedules) == 5


async def test_a_thread_is_copied_once_also_when_its_origin_is_gone(journal: Journal, next_one: Journal):
    await journal.threads.create(TENANT, FIRST, {"a": 1})
    await journal.threads.patch(TENANT, FIRST, messages=[message("user", "hi")])
    copies = await asyncio.gather(
        *(at.threads.copy(TENANT, FIRST, SECOND) for at in (journal, next_one) for _ in range(3))
    )
    assert copies == [copies[0]] * 6
    assert copies[0].metadata == {"a": 1}
    await journal.threads.patch(TENANT, SECOND, values={"own": 1})
    await journal.threads.delete(TENANT, FIRST)
    assert (await next_one.threads.copy(TENANT, FIRST, SECOND)).values == {"own": 1}
    with pytest.raises(NotFound):
        await next_one.threads.copy(TENANT, FIRST, FIRST)


async def test_a_thread_of_a_given_id_is_made_once(journal: Journal, next_one: Journal):
    made = await journal.threads.create(TENANT, FIRST, {"a": 1}, "raise", "k")
    assert await next_one.threads.create(TENANT, FIRST, {"a": 1}, "raise", "k") == made
    with pytest.raises(IdempotencyConflict):
        await next_one.threads.create(TENANT, FIRST, {"a": 2}, "raise", "k")
    for key in ("other", None):
        # What is refused is not remembered: it stays refused.
        for _ in range(2):
            with pytest.raises(Conflict) as raised:
                await next_one.threads.create(TENANT, FIRST, {"a": 1}, "raise", key)
            assert raised.value.code == "thread_exists"


async def test_a_thread_is_changed_once(journal: Journal, next_one: Journal):
    await journal.threads.create(TENANT, FIRST)
    told = {"values": {"n": 1}, "messages": [message("user", "hi")]}
    changed = await journal.threads.patch(TENANT, FIRST, key="k", **told)
    await journal.threads.patch(TENANT, FIRST, values={"n": 2}, key="later")
    again = await next_one.threads.patch(TENANT, FIRST, key="k", **told)
    assert (again.values, again.messages) == ({"n": 2}, changed.messages)
    assert await rows(journal, thread_states) == 2
    with pytest.raises(IdempotencyConflict):
        await next_one.threads.patch(TENANT, FIRST, values={"n": 3}, key="k")
    # A key is of its thread: that of another, also of a copy, is a new one.
    await journal.threads.copy(TENANT, FIRST, SECOND)
    assert (await journal.threads.patch(TENANT, SECOND, key="k", **told)).values == {"n": 1}


async def test_a_repeated_answer_is_not_one_to_the_next_question(journal: Journal, next_one: Journal):
    run = await asking(journal, "a")
    assert (await approve(journal, run, "k")).status == "pending"
    claim = await next_one.claim(run.id, "coordinator-1")
    changes = [DecisionTaken(1), done("a"), held("b"), RunChange("waiting", reason="waiting")]
    await next_one.commit(run.id, claim.epoch, changes)

    assert (await approve(next_one, run, "k")).status == "waiting"
    assert await next_one.decisions(run.id) == []
    with pytest.raises(IdempotencyConflict):
        await approve(next_one, run, "k", "reject")
    with pytest.raises(IdempotencyConflict):
        await approve(next_one, run, "k", step=StepKey("b"))
    # Another person's very same answer is one to what waits now.
    await approve(next_one, run, "other")
    assert [decision.step for decision in await next_one.decisions(run.id)] == ["b"]


async def test_a_repeated_answer_is_known_while_others_wait(journal: Journal, next_one: Journal):
    run = await asking(journal, "a", "b")
    await approve(journal, run, "one", step=StepKey("a"))
    await approve(journal, run, "two")
    for key in ("one", "two"):
        named = {"step": StepKey("a")} if key == "one" else {}
        assert (await approve(next_one, run, key, **named)).status == "pending"
    assert [decision.step for decision in await next_one.decisions(run.id)] == ["a", "b"]


async def test_an_answer_that_was_refused_may_be_given_later(journal: Journal):
    run = await at_work(journal)
    with pytest.raises(Conflict):
        await approve(journal, run, "k")
    await journal.commit(run.id, 1, [held("a")])
    await approve(journal, run, "k")
    assert len(await journal.decisions(run.id)) == 1


@pytest.mark.parametrize("later", ["pending", "running", "success", "error"])
async def test_a_run_is_resumed_once(journal: Journal, next_one: Journal, later: Any):
    run = await claimed(journal)
    await journal.commit(run.id, 1, [failed(), RunChange("error")])
    budget = Budget(tokens=5)
    assert (await journal.reopen(TENANT, run.id, budget, key="k")).status == "pending"
    if later != "pending":
        claim = await next_one.claim(run.id, "coordinator-1")
        if later != "running":
            await next_one.commit(run.id, claim.epoch, [done(), RunChange(later)])

    record = await next_one.reopen(TENANT, run.id, budget, key="k")

    assert (record.status, record.budget) == (later, budget)
    assert [event.type for event in await next_one.events(run.id)].count("run_resumed") == 1
    with pytest.raises(IdempotencyConflict):
        await next_one.reopen(TENANT, run.id, None, key="k")
    if later == "error":
        assert (await next_one.reopen(TENANT, run.id, budget, key="again")).status == "pending"
        return
    with pytest.raises(Conflict):
        await next_one.reopen(TENANT, run.id, budget, key="again")


async def test_keys_are_not_mistaken_for_metadata(journal: Journal):
    run = await claimed(journal, metadata={"request": ["resume", "x", "k"]})
    await journal.commit(run.id, 1, [RunChange("error")])
    await journal.reopen(TENANT, run.id, key="k")
    assert await journal.list_runs(TENANT, metadata={"resume": "k"}) == []
    await journal.threads.create(TENANT, FIRST, {"a": 1}, "raise", "k")
    assert len(await journal.threads.search(TENANT, {"a": 1})) == 1
    await journal.threads.delete(TENANT, FIRST)
    assert (await journal.threads.create(TENANT, FIRST, {"b": 1}, "raise", "k")).metadata == {"b": 1}
