"""What goes after a while goes wholly, what is still needed stays, and nobody at work is disturbed."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import extract, func, select

from coordinator.store.journal import Journal
from coordinator.store.library_records import Swept
from coordinator.store.records import EventDraft, RunChange, StepChange, ThreadChange
from coordinator.store.retention import DAY_S
from coordinator.store.schema import coordinators, graphs, metadata, runs, sequences, steps, writers
from manta.clock import ManualClock
from manta.config import RetentionSettings
from manta.errors import NotFound
from manta.ids import StepKey
from tests.store.library_support import finished, message
from tests.store.support import (
    OTHER,
    STEP,
    TENANT,
    Postgres,
    a_run,
    at_work,
    claimed,
    intent,
    outcome,
    scope,
    started,
)

MONTH = RetentionSettings(runs_days=30, calls_days=None)
WEEK = RetentionSettings(runs_days=None, calls_days=7)
FOR_EVER = RetentionSettings(runs_days=None, calls_days=None)
LEFT = {"alembic_version", graphs.name, sequences.name, "writers"}
"""Tables that are not of runs."""


async def counts(journal: Journal) -> dict[str, int]:
    """The tables that hold anything."""

    def query(connection: Any) -> dict[str, int]:
        tables = [table for table in metadata.sorted_tables if table.name not in LEFT]
        found = {t.name: connection.execute(select(func.count()).select_from(t)).scalar() for t in tables}
        return {name: count for name, count in found.items() if count}

    return await journal.retention._read(query)


async def full(journal: Journal, *, clock_s: float = 0, status: Any = "success", **given: Any):
    """A finished run with rows in every table that a run can have rows in."""
    thread = (await journal.threads.create(TENANT)).id
    run = await at_work(journal, thread=thread, webhook="http://x/", metadata={"team": "a"}, **given)
    await journal.begin_call(intent(scope(run)))
    await journal.finish_call(outcome(scope(run), notes={"window": 5}))
    await journal.feedback.add(TENANT, run.id, "ann", 5)
    await journal.commit(run.id, run.epoch, [StepChange(STEP, "plan", None, "done", 1, notes={"n": 1})])
    await journal.commit(
        run.id,
        run.epoch,
        [
            StepChange(
                StepKey("ask"), "ask", None, "waiting", 1, waiting={"reason": "approval", "question": "?"}
            )
        ],
    )
    await journal.decide(TENANT, run.id, StepKey("ask"), "approve", None, "", "ann")
    told = ThreadChange(thread, {"a": 1}, (message("user", "q"),))
    return await end(journal, run, told, status=status)


async def end(journal: Journal, run: Any, *changes: Any, status: Any = "success"):
    await journal.commit(run.id, run.epoch, [*changes, RunChange(status), EventDraft("run_done")])
    return await journal.get_run(run.tenant, run.id)


async def test_an_old_run_goes_with_all_that_is_its_own(journal: Journal, clock: ManualClock):
    run = await full(journal)
    before = await counts(journal)
    its_tables = {
        t.name for t in metadata.sorted_tables if any(k.column.table is runs for k in t.foreign_keys)
    }
    assert its_tables <= before.keys(), "the test does not fill every table that belongs to runs"

    await clock.advance(30 * DAY_S)
    assert await journal.retention.sweep(clock.now(), MONTH) == Swept()
    await clock.advance(1)
    assert (await journal.retention.sweep(clock.now(), MONTH)).runs == 1
    with pytest.raises(NotFound):
        await journal.get_run(TENANT, run.id)
    # The thread remembers what was said, and no longer who said it.
    assert await counts(journal) == {
        "threads": 1, "thread_labels": 1, "thread_messages": 1, "thread_states": 1
    }  # fmt: skip
    [thread] = await journal.threads.search(TENANT)
    state = await journal.threads.state(TENANT, thread.id)
    assert (state.run, state.values, thread.status) == (None, {"a": 1}, "idle")


@pytest.mark.parametrize("status", ["error", "timeout", "interrupted"])
async def test_finished_is_finished_however_it_ended(journal: Journal, clock: ManualClock, status):
    await finished(journal, status)
    await clock.advance(31 * DAY_S)
    assert (await journal.retention.sweep(clock.now(), MONTH)).runs == 1


async def test_what_is_unfinished_young_or_kept_stays(journal: Journal, clock: ManualClock):
    parked = await claimed(journal)
    await journal.commit(parked.id, parked.epoch, [RunChange("waiting")])
    unfinished = [parked, await at_work(journal), (await journal.create_run(a_run()))[0]]
    failed = await finished(journal, "error")
    old = await finished(journal)
    await clock.advance(365 * DAY_S)
    await journal.reopen(TENANT, failed.id)
    young = await finished(journal, tenant=OTHER)

    assert await journal.retention.sweep(clock.now(), FOR_EVER) == Swept()
    assert (await journal.retention.sweep(clock.now(), MONTH)).runs == 1
    for run in (*unfinished, failed, young):
        assert (await journal.get_run(run.tenant, run.id)).id == run.id
    with pytest.raises(NotFound):
        await journal.get_run(TENANT, old.id)


async def test_the_wording_of_calls_goes_before_the_run(journal: Journal, clock: ManualClock):
    run = await full(journal)
    await clock.advance(7 * DAY_S)
    assert await journal.retention.sweep(clock.now(), WEEK) == Swept()
    await clock.advance(1)
    assert await journal.retention.sweep(clock.now(), WEEK) == Swept(calls=1)
    assert await journal.retention.sweep(clock.now(), WEEK) == Swept()

    [kept] = await journal.calls(run.id, whole=True)
    assert (kept.call.state, kept.call.request, kept.call.response, kept.call.notes) == (
        "done",
        None,
        None,
        None,
    )
    assert (kept.call.name, kept.call.usage.input_tokens) == ("search", 10)
    assert (await journal.get_run(TENANT, run.id)).usage == run.usage
    query = select(steps.c.notes)
    assert await journal.retention._read(lambda c: c.execute(query).scalars().all()) == [None, None]


async def test_what_a_resume_would_replay_is_kept(journal: Journal, clock: ManualClock):
    run = await at_work(journal)
    other = StepKey("write")
    await journal.commit(run.id, run.epoch, [started(other)])
    for step in (STEP, other):
        where = scope(run, step=step)
        await journal.begin_call(intent(where, idempotent=False))
        await journal.finish_call(outcome(where))
    over = [
        StepChange(STEP, "plan", None, "done", 1),
        StepChange(other, "write", None, "failed", 1, error={"code": "x", "message": "", "fix": ""}),
    ]
    await end(journal, run, *over, status="error")
    await clock.advance(8 * DAY_S)
    assert (await journal.retention.sweep(clock.now(), WEEK)).calls == 1

    await journal.reopen(TENANT, run.id)
    again = await journal.claim(run.id, "me")
    await journal.commit(run.id, again.epoch, [started(other)])
    replayed = await journal.begin_call(intent(scope(again, step=other), idempotent=False))
    assert replayed is not None
    assert replayed.response == {"found": 3}


async def test_a_dry_run_counts_and_changes_nothing(journal: Journal, clock: ManualClock):
    await full(journal)
    await clock.advance(10 * DAY_S)
    await full(journal)
    await journal.renew("dead", clock.now())
    await clock.advance(25 * DAY_S)
    before = await counts(journal)
    both = RetentionSettings(runs_days=30, calls_days=7)

    told = await journal.retention.sweep(clock.now(), both, dry_run=True)
    assert await counts(journal) == before
    assert told == await journal.retention.sweep(clock.now(), both) == Swept(runs=1, calls=1, processes=1)
    assert await journal.retention.sweep(clock.now(), both, dry_run=True) == Swept()


@pytest.mark.parametrize("batch", [1, 7, 1000])
async def test_many_runs_go_in_small_transactions(journal: Journal, clock: ManualClock, batch: int):
    for n in range(20):
        await finished(journal, tenant=(TENANT, OTHER)[n % 2])
    await clock.advance(31 * DAY_S)
    flushes = journal.flushes
    assert (await journal.retention.sweep(clock.now(), MONTH, batch)).runs == 20
    transactions = journal.flushes - flushes
    assert transactions >= 20 if batch == 1 else transactions < 20
    assert await counts(journal) == {}


async def test_work_goes_on_beside_a_sweep(url: str, journal: Journal, clock: ManualClock):
    old = [await full(journal) for _ in range(10)]
    await clock.advance(31 * DAY_S)
    second = await Journal.open(url, clock)
    run = await at_work(journal)

    async def work() -> None:
        for n in range(40):
            where = scope(run)
            await journal.begin_call(intent(where, str(n)))
            await journal.finish_call(outcome(where, str(n)))

    both = RetentionSettings(runs_days=30, calls_days=7)
    try:
        first, other, _ = await asyncio.gather(
            journal.retention.sweep(clock.now(), both, 5),
            second.retention.sweep(clock.now(), both, 5),
            work(),
        )
    finally:
        await second.close()
    assert first.runs + other.runs == len(old)
    assert len(await journal.calls(run.id)) == 40


async def test_a_run_that_is_opened_again_meanwhile_is_left_out(journal: Journal, clock: ManualClock):
    failed = await finished(journal, "error")
    await clock.advance(31 * DAY_S)
    read = journal.retention._read

    async def late(operation):
        found = await read(operation)
        if found:
            await journal.reopen(TENANT, failed.id)
        return found

    journal.retention._read = late
    assert (await journal.retention.sweep(clock.now(), MONTH)).runs == 0
    assert (await journal.get_run(TENANT, failed.id)).status == "pending"


async def test_coordinators_that_died_long_ago_are_forgotten(journal: Journal, clock: ManualClock):
    await journal.renew("dead", clock.now())
    await clock.advance(DAY_S)
    await journal.renew("alive", clock.now() + 10)
    assert (await journal.retention.sweep(clock.now(), FOR_EVER)).processes == 0
    await clock.advance(1)
    assert (await journal.retention.sweep(clock.now(), FOR_EVER)).processes == 1
    left = await journal.retention._read(lambda c: c.execute(select(coordinators.c.name)).scalars().all())
    assert left == ["alive"]


async def test_writers_that_were_not_seen_for_long_are_forgotten(postgres: Postgres, clock: ManualClock):
    journal = await Journal.open(postgres.database(), clock)
    for name, age in {"dead": 1.1 * DAY_S, "silent": 0.9 * DAY_S}.items():
        seen = extract("epoch", func.now()) - age
        new = writers.insert().values(id=name, last_group=1, seen_at=seen)
        await journal.retention._write(lambda c, new=new: c.execute(new).close())

    assert (await journal.retention.sweep(clock.now(), FOR_EVER)).processes == 1
    left = await journal.retention._read(lambda c: c.execute(select(writers.c.id)).scalars().all())
    # The third is the one that asks.
    assert ("dead" in left, "silent" in left, len(left)) == (False, True, 2)
    await journal.close()


async def test_notes_of_a_step_without_calls_go_too(journal: Journal, clock: ManualClock):
    run = await at_work(journal)
    noted = StepChange(STEP, "plan", None, "done", 1, notes={"n": 1})
    await end(journal, run, noted)
    await clock.advance(8 * DAY_S)
    await journal.retention.sweep(clock.now(), WEEK)
    query = select(steps.c.notes)
    assert await journal.retention._read(lambda c: c.execute(query).scalars().all()) == [None]


def sha(n: int) -> str:
    return f"{n:064x}"


async def test_files_are_named_wherever_a_value_is(journal: Journal):
    files = [sha(n) for n in range(12)]
    thread = (await journal.threads.create(TENANT)).id
    run = await claimed(
        journal, thread=thread, input={"data": [{"sha256": files[0]}]}, metadata={"logo": files[1]},
        overrides={STEP: {"file": files[2]}},
    )  # fmt: skip
    await journal.commit(run.id, run.epoch, [started(input={"f": files[3]})])
    await journal.begin_call(intent(scope(run), request={"f": files[4]}))
    await journal.finish_call(outcome(scope(run), response={"f": [files[5]]}))
    told = ThreadChange(thread, {"f": files[6]}, (message("user", f"see ![]({files[7]})"),))
    step = StepChange(STEP, "plan", None, "done", 1, output={"x": {"sha256": files[8]}})
    await end(journal, run, step, told)
    await journal.items.put(TENANT, ["files"], "k", {"f": files[9]})
    await journal.schedules.create(TENANT, "ann", "report", {"f": files[10]}, "0 0 * * *", enabled=False)

    assert await journal.retention.named_files(files) == set(files[:11])
    assert await journal.retention.named_files([]) == set()
    assert await journal.retention.named_files([sha(99), "A" * 64]) == set()


async def test_nothing_names_a_file_by_its_beginning(journal: Journal):
    await finished(journal, input={"almost": sha(5)[1:]})
    assert await journal.retention.named_files([sha(5)]) == set()


async def test_a_name_is_found_in_the_midst_of_other_digits(journal: Journal):
    # In JSON the letter before it is an escape, which ends in digits of the same kind.
    await finished(journal, input={"odd": "ä" + sha(5), "longer": "f" + sha(6) + "0"})
    assert await journal.retention.named_files([sha(n) for n in range(10)]) == {sha(5), sha(6)}
