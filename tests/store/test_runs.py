"""Runs are created once, found by their tenant only, and listed newest first."""

import asyncio

import pytest

from coordinator.store.journal import Journal
from coordinator.store.records import RunChange
from manta.clock import ManualClock
from manta.errors import Conflict, IdempotencyConflict, InvalidInput, NotFound
from manta.ids import RunId, new_run_id
from manta.messages import Usage
from tests.store.support import (
    OTHER,
    TENANT,
    a_run,
    at_work,
    claimed,
    done,
    failed,
    intent,
    note,
    outcome,
    scope,
    seqs,
    started,
)


async def test_a_new_run_reads_back_as_it_was_asked_for(journal: Journal, clock: ManualClock):
    new = a_run(metadata={"team": "a"}, deadline=clock.now() + 60)

    record, created = await journal.create_run(new)

    assert created
    assert record == await journal.get_run(TENANT, new.id)
    assert (record.graph, record.input, record.metadata) == (new.graph, new.input, new.metadata)
    assert (record.status, record.epoch, record.owner, record.cancel_requested) == ("pending", 0, None, False)
    assert (record.created_at, record.updated_at, record.deadline) == (clock.now(), clock.now(), new.deadline)
    assert (record.usage, record.output, record.error) == (Usage(), None, None)
    assert await journal.events(new.id) == []


async def test_fifty_submissions_with_one_key_make_one_run(journal: Journal):
    results = await asyncio.gather(
        *(journal.create_run(a_run(idempotency_key="k", input={"n": 1})) for _ in range(50))
    )

    assert [created for _, created in results].count(True) == 1
    assert len({record.id for record, _ in results}) == 1
    assert len(await journal.list_runs(TENANT, limit=100)) == 1


async def test_two_processes_with_one_key_make_one_run(url: str, journal: Journal, clock: ManualClock):
    second = await Journal.open(url, clock)
    try:
        results = await asyncio.gather(
            *(j.create_run(a_run(idempotency_key=f"k{n}")) for n in range(20) for j in (journal, second))
        )
    finally:
        await second.close()

    assert [created for _, created in results].count(True) == 20
    assert len(await journal.list_runs(TENANT, limit=100)) == 20


async def test_a_key_used_with_another_body_is_refused(journal: Journal):
    await journal.create_run(a_run(idempotency_key="k", body_hash="one"))

    with pytest.raises(IdempotencyConflict):
        await journal.create_run(a_run(idempotency_key="k", body_hash="two"))


async def test_a_key_belongs_to_its_tenant(journal: Journal):
    ours, _ = await journal.create_run(a_run(idempotency_key="k", body_hash="one"))
    theirs, created = await journal.create_run(a_run(idempotency_key="k", body_hash="two", tenant=OTHER))

    assert created
    assert theirs.id != ours.id


async def test_requests_without_a_key_are_told_apart_by_id(journal: Journal):
    new = a_run()
    first, _ = await journal.create_run(new)
    repeated, created_again = await journal.create_run(new)
    _, created_other = await journal.create_run(a_run())

    assert (repeated, created_again, created_other) == (first, False, True)
    with pytest.raises(IdempotencyConflict):
        await journal.create_run(a_run(id=new.id, body_hash="other"))


async def test_another_tenants_run_is_not_there(journal: Journal):
    run = await claimed(journal)

    with pytest.raises(NotFound) as theirs:
        await journal.get_run(OTHER, run.id)
    with pytest.raises(NotFound) as nobodys:
        await journal.get_run(OTHER, unknown := new_run_id())
    assert str(theirs.value).replace(run.id, "") == str(nobodys.value).replace(unknown, "")
    with pytest.raises(NotFound):
        await journal.request_cancel(OTHER, run.id)
    with pytest.raises(NotFound):
        await journal.begin_call(intent(scope(run, tenant=OTHER)))
    with pytest.raises(NotFound):
        await journal.finish_call(outcome(scope(run, tenant=OTHER)))
    assert await journal.list_runs(OTHER) == []


@pytest.mark.parametrize("run_id", ["", "nope", "\x00", "../x", "\ud800", "é", "' OR 1=1 --", "x" * 10_000])
async def test_what_cannot_be_a_run_id_is_not_found(journal: Journal, run_id: str):
    with pytest.raises(NotFound):
        await journal.get_run(TENANT, RunId(run_id))
    with pytest.raises(NotFound):
        await journal.claim(RunId(run_id), "me")


async def test_lists_are_newest_first_and_filtered(journal: Journal, clock: ManualClock):
    made = []
    for n in range(6):
        labels = {"even": n % 2 == 0, 'odd "key"': {"b": 1, "a": [n]}}
        new = a_run(graph_name="report" if n < 4 else "chat", metadata=labels)
        made.append((await journal.create_run(new))[0].id)
        # A clock that goes back must not reorder what was created later.
        await clock.advance(-10)
    await journal.claim(made[1], "me")

    async def ids(**filters) -> list[int]:
        return [made.index(record.id) for record in await journal.list_runs(TENANT, **filters)]

    assert await ids() == [5, 4, 3, 2, 1, 0]
    assert await ids(limit=2, offset=1) == [4, 3]
    assert await ids(graph="chat") == [5, 4]
    assert await ids(status="running") == [1]
    assert await ids(status=("pending", "running")) == [5, 4, 3, 2, 1, 0]
    assert await ids(status=("pending",)) == [5, 4, 3, 2, 0]
    assert await ids(status=()) == []
    assert await ids(metadata={"even": True}) == [4, 2, 0]
    assert await ids(metadata={"even": True}, graph="report") == [2, 0]
    assert await ids(metadata={'odd "key"': {"a": [3], "b": 1}}) == [3]
    assert await ids(metadata={"even": True, 'odd "key"': {"a": [3], "b": 1}}) == []
    assert await ids(metadata={"even": 1}) == []


async def test_cancel_is_a_durable_flag_until_the_end(journal: Journal):
    run = await claimed(journal)

    assert (await journal.request_cancel(TENANT, run.id)).cancel_requested
    assert (await journal.request_cancel(TENANT, run.id)).cancel_requested
    assert (await journal.claim(run.id, "next")).cancel_requested
    await journal.commit(run.id, 2, [RunChange("interrupted", reason="cancelled")])

    with pytest.raises(Conflict) as refused:
        await journal.request_cancel(TENANT, run.id)
    assert refused.value.code == "run_terminal"
    assert (await journal.get_run(TENANT, run.id)).reason == "cancelled"


@pytest.mark.parametrize(
    "changes",
    [
        {"input": float("nan")},
        {"input": {"when": object()}},
        {"graph": {"x": b"bytes"}},
        {"metadata": {"x": float("inf")}},
        {"principal": "a\x00b"},
        {"idempotency_key": "k" * 300},
        {"idempotency_key": ""},
    ],
    ids=lambda c: next(iter(c)),
)
async def test_a_value_that_cannot_be_kept_is_refused_and_writes_nothing(journal: Journal, changes: dict):
    with pytest.raises(InvalidInput):
        await journal.create_run(a_run(**changes))
    assert await journal.list_runs(TENANT) == []


async def test_text_of_every_kind_survives(journal: Journal):
    odd = {
        "nul": "a\x00b",
        "lone": "\ud800",
        "line": "\u2028",
        "big": 10**30,
        "emoji": "🐟",
        "": [None, "", {}],
    }
    run = await claimed(journal, input=odd, metadata={"nul\x00": "\x00"})
    await journal.commit(run.id, 1, [note(**odd)])

    assert (await journal.get_run(TENANT, run.id)).input == odd
    assert (await journal.events(run.id))[0].data == odd
    assert len(await journal.list_runs(TENANT, metadata={"nul\x00": "\x00"})) == 1
    assert await seqs(journal, run.id) == [1]


async def test_usage_grows_with_the_calls_and_the_time_of_the_steps(journal: Journal):
    run = await at_work(journal)
    for key in ("0", "1"):
        await journal.begin_call(intent(scope(run), key))
        await journal.finish_call(outcome(scope(run), key, usage=Usage(10, 5, 2, 1, 0, 7)))
    await journal.commit(run.id, 1, [failed(usage=Usage(20, 10, 4, 2, 0, 14, 300)), started(attempt=2)])
    await journal.commit(run.id, 1, [done(attempt=2, usage=Usage(milliseconds=50))])

    # What the calls used is not counted again with their step.
    spent = Usage(20, 10, 4, 2, 0, 14, 350)
    assert await journal.usage(run.id) == spent
    assert (await journal.get_run(TENANT, run.id)).usage == spent
    assert await journal.usage((await claimed(journal)).id) == Usage()
    assert await journal.usage(new_run_id()) == Usage()
