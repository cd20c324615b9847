"""A run has one owner at a time: claims, leases, what is there to be taken, and turns on a thread."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from coordinator.store.journal import Journal
from coordinator.store.records import RunChange
from manta.clock import ManualClock
from manta.errors import Conflict, InvalidInput, NotFound, StaleEpoch
from manta.ids import ThreadId, new_run_id
from tests.store.support import (
    OTHER,
    TENANT,
    a_run,
    at_work,
    claimed,
    done,
    held,
    in_one_group,
    note,
    seqs,
    started,
)

LEASE_S = 10.0
HOUR_S = 3600.0


async def refused(work, code: str) -> None:
    with pytest.raises(Conflict) as raised:
        await work
    assert raised.value.code == code


@pytest.fixture
async def second(url: str, journal: Journal, clock: ManualClock) -> AsyncIterator[Journal]:
    """Another coordinator's way to the same journal."""
    opened = await Journal.open(url, clock)
    yield opened
    await opened.close()


async def test_a_run_may_be_created_claimed(journal: Journal):
    record, _ = await journal.create_run(a_run(), "me")

    assert (record.status, record.owner, record.epoch) == ("running", "me", 1)
    assert await journal.get_run(TENANT, record.id) == record
    assert [event.seq for event in await journal.commit(record.id, 1, [note()])] == [1]
    assert [brief.id for brief in await journal.takeable("me", 10)] == [record.id]
    with pytest.raises(InvalidInput):
        await journal.create_run(a_run(), "me\n")


async def test_a_living_owner_keeps_its_runs(journal: Journal, clock: ManualClock):
    run = await claimed(journal)
    await journal.renew("coordinator-1", clock.now() + LEASE_S)

    await refused(journal.claim(run.id, "coordinator-2"), "run_owned")
    assert await journal.takeable("coordinator-2", 10) == []
    assert [event.seq for event in await journal.commit(run.id, 1, [note()])] == [1]
    await clock.advance(LEASE_S - 1)
    await journal.renew("coordinator-1", clock.now() + LEASE_S)
    await clock.advance(LEASE_S - 1)
    await refused(journal.claim(run.id, "coordinator-2"), "run_owned")

    # Its own name always fits: a restarted coordinator does not wait for its own lease.
    assert [brief.id for brief in await journal.takeable("coordinator-1", 10)] == [run.id]
    assert await journal.takeable("coordinator-1", 10, own=False) == []
    assert (await journal.claim(run.id, "coordinator-1")).epoch == 2


async def test_a_lapsed_lease_hands_over_and_fences(journal: Journal, clock: ManualClock):
    run = await at_work(journal)
    await journal.renew("coordinator-1", clock.now() + LEASE_S)
    await clock.advance(LEASE_S)

    assert [brief.id for brief in await journal.takeable("coordinator-2", 10)] == [run.id]
    taken = await journal.claim(run.id, "coordinator-2")
    assert (taken.epoch, taken.owner, taken.takeovers) == (2, "coordinator-2", 1)
    # The zombie comes back, renews its lease, and still writes nothing.
    await journal.renew("coordinator-1", clock.now() + LEASE_S)
    with pytest.raises(StaleEpoch):
        await journal.commit(run.id, 1, [done(), note()])
    assert await seqs(journal, run.id) == []


async def test_an_owner_without_a_lease_has_no_claim_on_others(journal: Journal):
    run = await claimed(journal)

    assert (await journal.claim(run.id, "coordinator-2")).owner == "coordinator-2"


async def test_takeovers_count_deaths_until_a_step_gets_done(journal: Journal):
    run = await at_work(journal)
    assert run.takeovers == 0
    for n in range(1, 4):
        run = await journal.claim(run.id, "coordinator-1")
        assert run.takeovers == n
    await journal.commit(run.id, run.epoch, [started(), note()])
    assert (await journal.get_run(TENANT, run.id)).takeovers == 3

    await journal.commit(run.id, run.epoch, [done()])
    assert (await journal.get_run(TENANT, run.id)).takeovers == 0
    # Who let go has not died.
    await journal.release("coordinator-1")
    assert (await journal.claim(run.id, "coordinator-2")).takeovers == 0


async def test_who_only_lost_its_way_to_the_journal_has_not_died(journal: Journal):
    run = await at_work(journal)

    again = await journal.claim(run.id, "coordinator-1", again=True)
    assert (again.epoch, again.takeovers) == (2, 0)
    [brief] = await journal.takeable("coordinator-1", 1)
    assert (brief.id, brief.takeovers) == (run.id, 0)


async def test_release_lets_go_of_everything_at_once(journal: Journal, clock: ManualClock):
    mine = [await claimed(journal) for _ in range(3)]
    over, theirs = await claimed(journal), await journal.create_run(a_run(), "coordinator-2")
    await journal.commit(over.id, 1, [RunChange("success")])
    for name in ("coordinator-1", "coordinator-2"):
        await journal.renew(name, clock.now() + LEASE_S)
    assert await journal.takeable("coordinator-3", 10) == []

    assert await journal.release("coordinator-1") == 3

    assert [b.id for b in await journal.takeable("coordinator-3", 10)] == [run.id for run in mine]
    assert [b.id for b in await journal.takeable("coordinator-3", 2)] == [run.id for run in mine[:2]]
    await refused(journal.claim(theirs[0].id, "coordinator-3"), "run_owned")
    assert await journal.release("coordinator-1") == 0


async def test_the_queue_is_read_in_order_and_from_a_number_on(journal: Journal, clock: ManualClock):
    made = []
    for n in range(5):
        new = a_run(
            priority=n, tenant=TENANT if n % 2 else OTHER, graph={"name": "g", "max_active": n or None}
        )
        made.append((await journal.create_run(new))[0])
        await clock.advance(-10)
    await journal.claim(made[1].id, "me")

    briefs = await journal.queued(0, 10)
    assert [b.id for b in briefs] == [made[n].id for n in (0, 2, 3, 4)]
    assert [(b.priority, b.tenant, b.max_active) for b in briefs[:2]] == [(0, OTHER, None), (2, OTHER, 2)]
    assert await journal.queued(0, 2) == briefs[:2]
    assert await journal.queued(briefs[1].number, 10) == briefs[2:]
    assert await journal.queued(briefs[-1].number, 10) == []
    assert await journal.backlog() == {"pending": 4, "running": 1, "waiting": 0}


async def test_numbers_are_not_given_twice(journal: Journal):
    first = await claimed(journal)
    [brief] = await journal.takeable("coordinator-1", 1)
    await journal.commit(first.id, 1, [RunChange("success")])
    await journal.delete_run(TENANT, first.id)

    await journal.create_run(a_run())
    [after] = await journal.queued(0, 10)
    assert after.number > brief.number


async def test_numbers_come_in_the_order_in_which_they_can_be_seen(journal: Journal, second: Journal):
    """Who reads the queue from the last number on misses nothing that another process creates."""
    seen: list[int] = []
    writing = asyncio.gather(*(j.create_run(a_run()) for _ in range(100) for j in (journal, second)))
    while not writing.done():
        seen += [brief.number for brief in await journal.queued(seen[-1] if seen else 0, 500)]
    await writing
    seen += [brief.number for brief in await journal.queued(seen[-1], 500)]

    assert seen == [brief.number for brief in await journal.queued(0, 500)]
    assert len(seen) == 200


async def test_a_waiting_run_belongs_to_nobody_and_is_due_in_time(journal: Journal, clock: ManualClock):
    run, patient = await at_work(journal), await at_work(journal)
    parked = [held(), RunChange("waiting", reason="waiting", wake_at=clock.now() + 60), note("run_waiting")]
    await journal.commit(run.id, 1, parked)
    await journal.commit(patient.id, 1, [held(), RunChange("waiting")])

    record = await journal.get_run(TENANT, run.id)
    assert (record.status, record.owner, record.wake_at) == ("waiting", None, clock.now() + 60)
    assert await journal.backlog() == {"pending": 0, "running": 0, "waiting": 2}
    assert await journal.takeable("coordinator-1", 10) == []
    with pytest.raises(StaleEpoch):
        await journal.commit(run.id, 1, [note()])
    assert await journal.due(clock.now(), 10) == []
    await clock.advance(60)
    assert [brief.id for brief in await journal.due(clock.now(), 10)] == [run.id]
    again = await journal.claim(run.id, "coordinator-2")
    assert (again.status, again.reason, again.wake_at, again.takeovers) == ("running", None, None, 0)
    assert await journal.due(clock.now(), 10) == []


async def test_a_cancelled_run_that_waits_is_due_whatever_the_clock_says(
    journal: Journal, clock: ManualClock
):
    run = await at_work(journal)
    await journal.commit(run.id, 1, [held(), RunChange("waiting")])
    await journal.request_cancel(TENANT, run.id)
    await clock.advance(-HOUR_S)

    assert [brief.id for brief in await journal.due(clock.now(), 10)] == [run.id]
    again = await journal.claim(run.id, "coordinator-1")
    assert again.cancel_requested
    await journal.commit(run.id, again.epoch, [RunChange("interrupted", reason="cancelled")])
    assert await journal.due(clock.now(), 10) == []


async def test_a_cancel_that_comes_before_the_parking_wakes_the_run(journal: Journal):
    run = await at_work(journal)
    await journal.request_cancel(TENANT, run.id)
    await journal.commit(run.id, 1, [held(), RunChange("waiting")])

    assert [brief.id for brief in await journal.queued(0, 10)] == [run.id]


async def test_flags_tell_an_owner_what_has_come(journal: Journal):
    quiet, cancelled, decided, theirs = [await at_work(journal) for _ in range(4)]
    await journal.claim(theirs.id, "coordinator-2")
    for run in (cancelled, theirs):
        await journal.request_cancel(TENANT, run.id)
    await journal.commit(decided.id, 1, [held()])
    await journal.decide(TENANT, decided.id, None, "approve", None, "", "ann")

    flags = await journal.flags("coordinator-1")
    assert [(f.id, f.tenant, f.cancel_requested, f.decisions) for f in flags] == [
        (cancelled.id, TENANT, True, 0),
        (decided.id, TENANT, False, 1),
    ]
    assert quiet.id not in {flag.id for flag in flags}


async def test_a_lease_from_a_clock_that_was_ahead_is_shortened(journal: Journal, clock: ManualClock):
    """Its owner may be dead: nobody waits an hour for it."""
    await clock.advance(HOUR_S)
    run = await at_work(journal)
    await journal.renew("coordinator-1", clock.now() + LEASE_S)
    await clock.advance(-HOUR_S)
    assert await journal.takeable("coordinator-2", 10) == []

    await journal.renew("coordinator-2", clock.now() + LEASE_S)
    await clock.advance(LEASE_S)
    assert [brief.id for brief in await journal.takeable("coordinator-2", 10)] == [run.id]


async def test_one_of_many_claims_at_once_wins(journal: Journal, second: Journal, clock: ManualClock):
    for name in ("a", "b"):
        await journal.renew(name, clock.now() + LEASE_S)
    runs = [(await journal.create_run(a_run()))[0].id for _ in range(20)]
    claims = [j.claim(run, name) for run in runs for j, name in ((journal, "a"), (second, "b"))]

    results = await asyncio.gather(*claims, return_exceptions=True)

    for n, run in enumerate(runs):
        won = [r for r in results[2 * n : 2 * n + 2] if not isinstance(r, Exception)]
        lost = [r for r in results[2 * n : 2 * n + 2] if isinstance(r, Exception)]
        assert [type(r) for r in lost] == [Conflict]
        assert [(r.id, r.epoch) for r in won] == [(run, 1)]


async def test_writes_stay_fenced_while_clocks_jump(url: str, journal: Journal, clock: ManualClock):
    """Two coordinators whose clocks jump by an hour take runs from each other, and never write side by side."""
    other_clock = ManualClock(clock.now())
    other = await Journal.open(url, other_clock)
    sides = {"a": (journal, clock), "b": (other, other_clock)}
    jumps = random.Random(7)
    runs = [(await journal.create_run(a_run(), "a"))[0].id for _ in range(3)]
    epochs = dict.fromkeys(runs, 1)
    holds = dict.fromkeys(runs, ("a", 1))
    try:
        for _ in range(60):
            name = jumps.choice("ab")
            mine, its_clock = sides[name]
            await its_clock.advance(jumps.choice([1.0, 5.0, HOUR_S, -HOUR_S]))
            await mine.renew(name, its_clock.now() + LEASE_S)
            for brief in await mine.takeable(name, 10):
                if holds[brief.id][0] != name:
                    record = await mine.claim(brief.id, name)
                    assert record.epoch == epochs[brief.id] + 1
                    epochs[brief.id] = record.epoch
                    holds[brief.id] = (name, record.epoch)
            run = jumps.choice(runs)
            holder, epoch = holds[run]
            await sides[holder][0].commit(run, epoch, [note()])
            with pytest.raises(StaleEpoch):
                await mine.commit(run, epoch - 1, [note()])
        assert max(epochs.values()) > 3
        assert [event.seq for run in runs for event in await journal.events(run)] == [
            n + 1 for run in runs for n in range(len(await seqs(journal, run)))
        ]
        assert sum([len(await seqs(journal, run)) for run in runs]) == 60
        order = [record.id for record in await journal.list_runs(TENANT)]
        assert order == runs[::-1]
    finally:
        await other.close()


async def a_thread(journal: Journal) -> ThreadId:
    return (await journal.threads.create(TENANT)).id


async def test_runs_of_a_thread_go_one_after_the_other(journal: Journal):
    thread = await a_thread(journal)
    first, _ = await journal.create_run(a_run(thread=thread), "me")
    second_, _ = await journal.create_run(a_run(thread=thread), "me")
    elsewhere, _ = await journal.create_run(a_run(thread=await a_thread(journal)), "me")

    assert [r.status for r in (first, second_, elsewhere)] == ["running", "pending", "running"]
    assert (second_.owner, second_.epoch) == (None, 0)
    await refused(journal.create_run(a_run(thread=thread, reject_if_busy=True)), "thread_busy")
    await refused(journal.claim(second_.id, "me"), "thread_busy")
    # Its own turn is not in its way.
    assert (await journal.claim(first.id, "me")).epoch == 2
    await journal.commit(first.id, 2, [RunChange("success")])
    assert (await journal.claim(second_.id, "me")).status == "running"
    assert [r.id for r in await journal.list_runs(TENANT, thread=thread)] == [second_.id, first.id]


async def test_a_parked_run_keeps_its_thread(journal: Journal):
    thread = await a_thread(journal)
    first, _ = await journal.create_run(a_run(thread=thread), "me")
    await journal.commit(first.id, 1, [started(), held(), RunChange("waiting")])
    later, _ = await journal.create_run(a_run(thread=thread), "me")

    assert later.status == "pending"
    await refused(journal.claim(later.id, "me"), "thread_busy")
    await journal.decide(TENANT, first.id, None, "approve", None, "", "ann")
    await refused(journal.claim(later.id, "me"), "thread_busy")
    assert (await journal.claim(first.id, "me")).status == "running"


async def test_a_cancelled_run_is_ended_out_of_turn(journal: Journal):
    thread = await a_thread(journal)
    first, _ = await journal.create_run(a_run(thread=thread), "me")
    later, _ = await journal.create_run(a_run(thread=thread), "me")
    await journal.request_cancel(TENANT, later.id)

    assert (await journal.claim(later.id, "me")).cancel_requested
    await journal.commit(later.id, 1, [RunChange("interrupted", reason="cancelled")])
    assert (await journal.get_run(TENANT, first.id)).status == "running"


async def test_a_resumed_run_waits_for_the_one_at_work_on_its_thread(journal: Journal):
    thread = await a_thread(journal)
    first, _ = await journal.create_run(a_run(thread=thread), "me")
    await journal.commit(first.id, 1, [RunChange("error")])
    second_, _ = await journal.create_run(a_run(thread=thread), "me")
    await journal.reopen(TENANT, first.id)

    await refused(journal.claim(first.id, "me"), "thread_busy")
    await journal.commit(second_.id, 1, [RunChange("success")])
    assert (await journal.claim(first.id, "me")).status == "running"


async def test_runs_created_at_once_on_a_thread_have_one_at_work(journal: Journal, second: Journal):
    thread = await a_thread(journal)
    results = await asyncio.gather(
        *(j.create_run(a_run(thread=thread), "me") for _ in range(10) for j in (journal, second))
    )

    assert [record.status for record, _ in results].count("running") == 1
    oldest = (await journal.list_runs(TENANT, limit=20))[-1]
    assert oldest.status == "running"


async def test_a_thread_has_to_be_there(journal: Journal):
    with pytest.raises(NotFound):
        await journal.create_run(a_run(thread=ThreadId(new_run_id())))
    thread = await a_thread(journal)
    with pytest.raises(NotFound):
        await journal.create_run(a_run(thread=thread, tenant=OTHER))
    results = await in_one_group(
        journal, journal.create_run(a_run()), journal.create_run(a_run(thread=thread))
    )
    assert [created for _, created in results] == [True, True]
