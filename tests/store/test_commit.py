"""A commit is atomic, fenced, numbered without gaps, and shares its flush with others."""

import asyncio
import dataclasses

import pytest
from sqlalchemy import Engine, event

from coordinator.store.journal import Journal
from coordinator.store.records import EventDraft, RunChange, StepChange
from manta.clock import ManualClock
from manta.errors import Conflict, InvalidInput, NotFound, StaleEpoch, StorageUnavailable
from manta.ids import StepKey, new_run_id
from manta.messages import Usage
from tests.store.support import (
    TENANT,
    a_run,
    at_work,
    claimed,
    done,
    intent,
    note,
    outcome,
    scope,
    seqs,
    started,
)


async def test_steps_and_events_of_a_commit_read_back(journal: Journal, clock: ManualClock):
    run = await claimed(journal)
    began = clock.now()

    written = await journal.commit(
        run.id, 1, [started(agent="planner", input={"q": 1}), note("step_started", attempt=1)]
    )
    await clock.advance(5)
    written += await journal.commit(
        run.id, 1, [done(output=["a"], usage=Usage(1, 2, 3, 4, 5)), note("step_done", seconds=5)]
    )

    assert written == await journal.events(run.id)
    assert [(e.seq, e.type, e.at) for e in written] == [
        (1, "step_started", began),
        (2, "step_done", began + 5),
    ]
    [step] = await journal.steps(run.id)
    assert (step.state, step.agent, step.input, step.output) == ("done", "planner", {"q": 1}, ["a"])
    assert (step.started_at, step.finished_at, step.usage) == (began, began + 5, Usage(1, 2, 3, 4, 5))
    assert (await journal.get_run(TENANT, run.id)).updated_at == began + 5


async def test_a_retry_clears_what_the_failed_attempt_left(journal: Journal):
    run = await claimed(journal)
    failure = StepChange(
        StepKey("plan"), "plan", None, "failed", 1, error={"code": "x", "message": "", "fix": ""}
    )
    await journal.commit(run.id, 1, [started(input={"q": 1}), failure, started(attempt=2)])

    [step] = await journal.steps(run.id)
    assert (step.state, step.attempt, step.error, step.finished_at) == ("started", 2, None, None)
    assert step.input == {"q": 1}


async def test_steps_keep_the_order_in_which_they_appeared(journal: Journal):
    run = await claimed(journal)
    keys = ["write", "plan", "research[1]", "research[0]"]
    await journal.commit(run.id, 1, [started(key) for key in keys])
    await journal.commit(run.id, 1, [done("plan")])

    assert [step.key for step in await journal.steps(run.id)] == keys


async def test_a_failing_change_writes_nothing_and_spares_its_neighbours(journal: Journal):
    bad, good = await claimed(journal), await claimed(journal)
    unwritable = [started(), note(), RunChange("success", output=object())]

    results = await asyncio.gather(
        journal.commit(good.id, 1, [started(), note()]),
        journal.commit(bad.id, 1, unwritable),
        journal.commit(bad.id, 7, [note()]),
        journal.commit(new_run_id(), 1, [note()]),
        journal.commit(good.id, 1, [done(), note()]),
        return_exceptions=True,
    )

    assert [type(r) for r in results] == [list, InvalidInput, StaleEpoch, NotFound, list]
    assert await seqs(journal, good.id) == [1, 2]
    assert await journal.steps(bad.id) == []
    assert await seqs(journal, bad.id) == []
    assert dataclasses.replace(await journal.get_run(TENANT, bad.id), updated_at=0.0) == dataclasses.replace(
        bad, updated_at=0.0
    )


async def test_numbers_are_gapless_under_concurrent_commits(journal: Journal):
    runs = [await claimed(journal) for _ in range(3)]
    unwritable = [note(), EventDraft("call_done", data={"x": object()})]

    results = await asyncio.gather(
        *(journal.commit(run.id, 1, [note(n=n)] * (n % 3)) for n in range(20) for run in runs),
        *(journal.commit(run.id, 1, unwritable) for _ in range(5) for run in runs),
        return_exceptions=True,
    )

    for run in runs:
        expected = sum(n % 3 for n in range(20))
        assert await seqs(journal, run.id) == list(range(1, expected + 1))
    returned = [(e.run, e.seq) for r in results if isinstance(r, list) for e in r]
    assert len(returned) == len(set(returned)) == 3 * expected


async def test_events_are_read_from_a_number_on(journal: Journal):
    run = await claimed(journal)
    await journal.commit(run.id, 1, [note(n=n) for n in range(10)])

    assert [e.seq for e in await journal.events(run.id, after=4, limit=3)] == [5, 6, 7]
    assert await journal.events(run.id, after=10) == []


async def test_an_older_epoch_is_refused_everywhere(journal: Journal):
    run = await at_work(journal)
    await journal.begin_call(intent(scope(run)))
    newer = await journal.claim(run.id, "coordinator-2")

    assert (newer.epoch, newer.owner, newer.status) == (2, "coordinator-2", "running")
    with pytest.raises(StaleEpoch):
        await journal.commit(run.id, 1, [note()])
    with pytest.raises(StaleEpoch):
        await journal.begin_call(intent(scope(run), "1"))
    with pytest.raises(StaleEpoch):
        await journal.finish_call(outcome(scope(run)))
    assert await seqs(journal, run.id) == []
    assert await journal.usage(run.id) == Usage()


async def test_a_run_that_nobody_claimed_takes_no_commits(journal: Journal):
    record, _ = await journal.create_run(a_run())

    with pytest.raises(StaleEpoch):
        await journal.commit(record.id, 0, [note()])


async def test_claims_at_once_get_different_epochs(url: str, journal: Journal, clock: ManualClock):
    record, _ = await journal.create_run(a_run())
    second = await Journal.open(url, clock)
    try:
        claims = await asyncio.gather(
            *(j.claim(record.id, "me") for _ in range(5) for j in (journal, second))
        )
    finally:
        await second.close()

    assert sorted(claim.epoch for claim in claims) == list(range(1, 11))


async def test_an_older_attempt_is_refused_until_a_new_claim_counts_again(journal: Journal):
    run = await claimed(journal)
    await journal.commit(run.id, 1, [started(attempt=1), started(attempt=2)])

    with pytest.raises(StaleEpoch):
        await journal.commit(run.id, 1, [done(attempt=1)])
    await journal.claim(run.id, "next")
    await journal.commit(run.id, 2, [started(attempt=1), done(attempt=1, output=1)])
    assert [(s.state, s.attempt, s.output) for s in await journal.steps(run.id)] == [("done", 1, 1)]


async def test_a_step_has_one_output(journal: Journal):
    run = await claimed(journal)
    await journal.commit(run.id, 1, [started(), done(output="first")])

    for again in (done(output="second"), started(attempt=2)):
        with pytest.raises(Conflict) as refused:
            await journal.commit(run.id, 1, [again])
        assert refused.value.code == "step_done"
    assert [s.output for s in await journal.steps(run.id)] == ["first"]


@pytest.mark.parametrize("status", ["success", "error", "timeout", "interrupted"])
async def test_a_finished_run_takes_nothing_more(journal: Journal, status):
    run = await at_work(journal)
    end = RunChange(status, reason="r", error={"code": "c", "message": "m", "fix": "f"}, output={"x": [1]})
    await journal.commit(run.id, 1, [end, note("run_failed")])

    for late in (journal.commit(run.id, 1, [note()]), journal.claim(run.id, "late")):
        with pytest.raises(Conflict) as refused:
            await late
        assert refused.value.code == "run_terminal"
    with pytest.raises(StaleEpoch):
        await journal.begin_call(intent(scope(run)))
    record = await journal.get_run(TENANT, run.id)
    assert (record.status, record.reason, record.output) == (status, "r", {"x": [1]})
    assert record.error == end.error
    assert await journal.backlog() == {"pending": 0, "running": 0, "waiting": 0}


async def test_calls_made_at_once_share_transactions(journal: Journal):
    runs = [await claimed(journal) for _ in range(4)]
    commits: list[object] = []

    def count(connection: object) -> None:
        commits.append(connection)

    event.listen(Engine, "commit", count)
    try:
        await asyncio.gather(*(journal.commit(run.id, 1, [note()]) for _ in range(50) for run in runs))
    finally:
        event.remove(Engine, "commit", count)

    # The first call may go alone; what queues meanwhile goes together.
    assert 1 <= len(commits) <= 20
    assert all([await seqs(journal, run.id) == list(range(1, 51)) for run in runs])


async def test_a_closed_journal_has_written_everything_and_says_so(url: str, clock: ManualClock):
    first = await Journal.open(url, clock)
    run = await claimed(first)
    pending = [asyncio.create_task(first.commit(run.id, 1, [note()])) for _ in range(20)]
    await asyncio.sleep(0)
    await first.close()
    await asyncio.gather(*pending)

    for refused in (first.commit(run.id, 1, [note()]), first.get_run(TENANT, run.id)):
        with pytest.raises(StorageUnavailable):
            await refused
    again = await Journal.open(url, clock)
    assert await seqs(again, run.id) == list(range(1, 21))
    await again.close()


async def test_a_journal_serves_several_event_loops(journal: Journal):
    run = await claimed(journal)

    def from_elsewhere() -> int:
        return len(asyncio.run(journal.commit(run.id, 1, [note()])))

    assert await asyncio.gather(*(asyncio.to_thread(from_elsewhere) for _ in range(4))) == [1] * 4
    assert await seqs(journal, run.id) == [1, 2, 3, 4]
