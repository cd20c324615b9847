"""Runs begun from others, opened again and deleted."""

from typing import Any

import pytest
from sqlalchemy import create_engine, text

from coordinator.store.engine import normalise_url
from coordinator.store.journal import Journal
from coordinator.store.records import RunChange, RunRecord, StepChange, ThreadChange
from coordinator.store.schema import metadata
from manta.clock import ManualClock
from manta.errors import Conflict, NotFound, OutcomeUnknown, StaleEpoch, ToolError
from manta.ids import RunId, StepKey, new_run_id
from manta.messages import Budget, Limit, Usage
from tests.store.support import (
    OTHER,
    STEP,
    TENANT,
    a_run,
    at_work,
    claimed,
    done,
    failed,
    held,
    intent,
    note,
    outcome,
    scope,
    seqs,
    started,
)

WRONG = ToolError("no such city").to_json()


def skipped(key: str) -> StepChange:
    return StepChange(StepKey(key), key, None, "skipped", 1)


async def refused(work: Any, code: str) -> None:
    with pytest.raises(Conflict) as raised:
        await work
    assert raised.value.code == code


async def ended_badly(journal: Journal, status: Any = "error", **changes: Any) -> RunRecord:
    """A run with one step done, one failed with calls of all kinds, and one that still waited."""
    run = await at_work(journal, **changes)
    await journal.commit(run.id, 1, [started("early"), started("late")])
    early = scope(run, step="early")
    await journal.begin_call(intent(early))
    await journal.finish_call(outcome(early, response=None, error=WRONG))
    await journal.commit(run.id, 1, [done("early", output="kept", usage=Usage(milliseconds=5)), held("late")])
    for key, changes_, ends in (
        ("good", {}, {}),
        ("bad", {}, {"response": None, "error": WRONG}),
        ("bad for good", {"idempotent": False}, {"response": None, "error": WRONG}),
        ("in flight", {}, None),
        ("in flight for good", {"idempotent": False}, None),
    ):
        await journal.begin_call(intent(scope(run), key, reserve=Usage(1), **changes_))
        if ends is not None:
            await journal.finish_call(outcome(scope(run), key, **ends))
    end = RunChange(status, reason="step_failed", error=WRONG, output="half")
    await journal.commit(run.id, 1, [failed(), end, note("run_failed")])
    return await journal.get_run(TENANT, run.id)


@pytest.mark.parametrize("status", ["error", "timeout", "interrupted"])
async def test_a_run_that_ended_badly_is_opened_again(journal: Journal, clock: ManualClock, status: Any):
    run = await ended_badly(journal, status, deadline=clock.now() + 60, budget=Budget(tokens=5))
    before = await seqs(journal, run.id)

    again = await journal.reopen(TENANT, run.id)

    assert (again.status, again.reason, again.error, again.output) == ("pending", None, None, None)
    assert (again.owner, again.deadline, again.cancel_requested, again.epoch) == (None, None, False, 1)
    assert (again.usage, again.budget) == (run.usage, Budget(tokens=5))
    assert [(s.key, s.state) for s in await journal.steps(run.id)] == [("early", "done")]
    assert {c.call.key: c.call.state for c in await journal.calls(run.id) if c.step == STEP} == {
        "good": "done",
        "bad": "cleared",
        "bad for good": "done",
        "in flight": "cleared",
        "in flight for good": "unknown",
    }
    # What a step that got done had tried in vain stays as it is.
    assert [c.call.error for c in await journal.calls(run.id) if c.step == "early"] == [WRONG]
    events = await journal.events(run.id)
    assert [event.seq for event in events] == [*before, len(before) + 1]
    assert (events[-1].type, events[-1].data) == ("run_resumed", {"reason": "resumed"})
    assert [brief.id for brief in await journal.queued(0, 10)] == [run.id]


async def test_a_failure_that_was_put_up_with_can_be_kept(journal: Journal):
    run = await ended_badly(journal)

    await journal.reopen(TENANT, run.id, keep=[STEP])

    assert [(s.key, s.state) for s in await journal.steps(run.id)] == [(STEP, "failed"), ("early", "done")]


async def test_a_resumed_run_replays_what_went_well_and_tries_the_rest_again(journal: Journal):
    run = await ended_badly(journal)
    await journal.reopen(TENANT, run.id, Budget(tokens=100))
    with pytest.raises(StaleEpoch):
        await journal.commit(run.id, 1, [note()])
    run = await journal.claim(run.id, "coordinator-2")
    assert (run.epoch, run.takeovers, run.budget) == (2, 0, Budget(tokens=100))
    await journal.commit(run.id, 2, [started()])
    limits = (Limit(StepKey(""), Budget(tokens=10**6)),)

    replayed = await journal.begin_call(intent(scope(run), "good"))
    assert replayed is not None
    for key in ("bad", "in flight"):
        assert await journal.begin_call(intent(scope(run), key, reserve=Usage(1), limits=limits)) is None
        await journal.finish_call(outcome(scope(run), key))
    with pytest.raises(OutcomeUnknown):
        await journal.begin_call(intent(scope(run), "in flight for good", idempotent=False))


@pytest.mark.parametrize(
    ("end", "code"),
    [(None, "run_active"), ("waiting", "run_active"), ("success", "run_terminal")],
)
async def test_only_a_run_that_ended_badly_is_opened_again(journal: Journal, end: Any, code: str):
    run = await at_work(journal)
    if end is not None:
        await journal.commit(run.id, 1, [held(), RunChange(end)])

    await refused(journal.reopen(TENANT, run.id), code)
    with pytest.raises(NotFound):
        await journal.reopen(OTHER, run.id)


async def test_a_cancelled_run_is_opened_without_its_cancel(journal: Journal):
    run = await at_work(journal)
    await journal.request_cancel(TENANT, run.id)
    await journal.commit(run.id, 1, [failed(), RunChange("interrupted", reason="cancelled")])

    assert not (await journal.reopen(TENANT, run.id)).cancel_requested
    assert await journal.flags("coordinator-1") == []


async def a_finished_run(journal: Journal, **changes: Any) -> RunRecord:
    run = await claimed(journal, **changes)
    await journal.commit(run.id, 1, [started("a", agent="x", input={"n": 1}), started("b"), started("c")])
    await journal.begin_call(intent(scope(run, step="a")))
    await journal.finish_call(outcome(scope(run, step="a")))
    ends = [done("b", output=[2]), skipped("d"), done("a", output=1, usage=Usage(1, 2)), failed("c")]
    await journal.commit(run.id, 1, [*ends, RunChange("error"), note("run_failed")])
    return run


async def test_a_fork_takes_over_what_it_names(journal: Journal):
    origin = await a_finished_run(journal)
    new = a_run(
        forked_from=origin.id,
        copied=(StepKey("d"), StepKey("a")),
        overrides={StepKey("b"): {"n": 2}},
        priority=3,
    )

    fork, created = await journal.create_run(new, "me")

    assert created
    assert (fork.forked_from, fork.overrides, fork.priority) == (origin.id, {"b": {"n": 2}}, 3)
    assert await journal.get_run(TENANT, fork.id) == fork
    steps = await journal.steps(fork.id)
    theirs = {step.key: step for step in await journal.steps(origin.id)}
    assert steps == [theirs["a"], theirs["d"]]
    # What was paid for is not paid for again, and its calls are not this run's.
    assert (fork.usage, await journal.calls(fork.id)) == (Usage(), [])
    await journal.commit(fork.id, 1, [started("b"), done("b")])
    assert [step.key for step in await journal.steps(fork.id)] == ["a", "d", "b"]
    await refused(journal.commit(fork.id, 1, [started("a")]), "step_done")
    assert (await journal.create_run(new, "me"))[1] is False


@pytest.mark.parametrize("copied", [("c",), ("a", "nowhere")])
async def test_a_fork_takes_over_only_what_is_done(journal: Journal, copied: tuple[str, ...]):
    origin = await a_finished_run(journal)

    with pytest.raises(Conflict):
        await journal.create_run(a_run(forked_from=origin.id, copied=copied))
    assert len(await journal.list_runs(TENANT)) == 1


async def test_a_fork_needs_its_own_tenants_run(journal: Journal):
    origin = await a_finished_run(journal, tenant=OTHER)

    for unknown in (origin.id, new_run_id()):
        with pytest.raises(NotFound):
            await journal.create_run(a_run(forked_from=unknown, copied=(StepKey("a"),)))
    assert await journal.list_runs(TENANT) == []


async def test_many_executions_are_taken_over(journal: Journal):
    origin = await claimed(journal)
    keys = [StepKey(f"work[{n}]") for n in range(2500)]
    await journal.commit(origin.id, 1, [done(key, output=n) for n, key in enumerate(keys)])

    fork, _ = await journal.create_run(a_run(forked_from=origin.id, copied=tuple(keys)))
    assert [step.output for step in await journal.steps(fork.id)] == list(range(2500))


def rows(url: str, run: RunId) -> dict[str, int]:
    """How many rows of each table name the run."""
    engine = create_engine(normalise_url(url))
    counts: dict[str, int] = {}
    with engine.connect() as connection:
        for table in metadata.sorted_tables:
            if "run_id" in table.c or table.name == "runs":
                column = "id" if table.name == "runs" else "run_id"
                query = text(f"SELECT count(*) FROM {table.name} WHERE {column} = :run")
                counts[table.name] = connection.execute(query, {"run": run}).scalar_one()
    engine.dispose()
    return counts


async def test_everything_of_a_deleted_run_goes(journal: Journal, url: str):
    thread = (await journal.threads.create(TENANT)).id
    kept, gone = [
        await ended_badly(journal, metadata={"team": "sea"}, thread=thread, webhook="http://hook.example")
        for _ in range(2)
    ]
    for run in (kept, gone):
        await journal.feedback.add(TENANT, run.id, "ann", 1, "")
    before = rows(url, kept.id)
    assert {"runs", "steps", "calls", "events", "run_inputs", "run_labels", "webhooks"} <= {
        name for name, count in before.items() if count
    }

    await journal.delete_run(TENANT, gone.id)

    assert set(rows(url, gone.id).values()) == {0}
    assert rows(url, kept.id) == before
    for lost in (journal.get_run(TENANT, gone.id), journal.delete_run(TENANT, gone.id)):
        with pytest.raises(NotFound):
            await lost
    assert await journal.events(gone.id) == []


async def test_a_run_is_deleted_by_its_tenant_once_it_is_over(journal: Journal):
    run = await at_work(journal)

    await refused(journal.delete_run(TENANT, run.id), "run_active")
    await journal.commit(run.id, 1, [held(), RunChange("waiting")])
    await refused(journal.delete_run(TENANT, run.id), "run_active")
    await journal.claim(run.id, "me")
    await journal.commit(run.id, 2, [RunChange("interrupted")])
    with pytest.raises(NotFound):
        await journal.delete_run(OTHER, run.id)
    await journal.delete_run(TENANT, run.id)
    assert await journal.list_runs(TENANT) == []


async def test_the_end_of_a_run_reaches_its_thread_and_its_webhook(journal: Journal):
    thread = (await journal.threads.create(TENANT)).id
    run, _ = await journal.create_run(a_run(thread=thread, webhook="https://hook.example/x"), "me")
    told = ThreadChange(thread, {"answer": 42}, ({"role": "assistant", "content": "42"},))

    await journal.commit(run.id, 1, [told, RunChange("success", output={"answer": 42}), note("run_done")])

    state = await journal.threads.state(TENANT, thread)
    assert state is not None
    assert (state.values, state.run) == ({"answer": 42}, run.id)
    assert [message["content"] for message in state.messages] == ["42"]
    assert [hook.url for hook in await journal.webhooks.list(TENANT, run.id)] == ["https://hook.example/x"]


async def test_a_refused_end_tells_nobody(journal: Journal):
    thread = (await journal.threads.create(TENANT)).id
    run, _ = await journal.create_run(a_run(thread=thread, webhook="https://hook.example/x"), "me")
    told = ThreadChange(thread, {"answer": 42})

    with pytest.raises(StaleEpoch):
        await journal.commit(run.id, 2, [told, RunChange("success")])
    assert await journal.threads.state(TENANT, thread) is None
    assert await journal.webhooks.list(TENANT, run.id) == []


async def test_runs_are_found_by_thread_and_reason(journal: Journal):
    thread = (await journal.threads.create(TENANT)).id
    parked, _ = await journal.create_run(a_run(thread=thread), "me")
    await journal.commit(parked.id, 1, [held(), RunChange("waiting", reason="waiting")])
    dead, _ = await journal.create_run(a_run(), "me")
    await journal.commit(dead.id, 1, [RunChange("error", reason="dead_letter")])

    async def found(**filters: Any) -> list[str]:
        return [record.id for record in await journal.list_runs(TENANT, **filters)]

    assert await found(thread=thread) == [parked.id]
    assert await found(reason="dead_letter") == [dead.id]
    assert await found(status="waiting") == [parked.id]
    assert await found(status="waiting", reason="dead_letter") == []
