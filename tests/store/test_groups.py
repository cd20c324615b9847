"""Many writes at once cost few statements, and come to what they would have come to one by one."""

import asyncio
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.store.journal import Journal
from coordinator.store.records import EventDraft, NewRun, RunChange, StepChange
from manta.clock import ManualClock
from manta.errors import Conflict, IdempotencyConflict, InvalidInput, MantaError, StaleEpoch
from manta.ids import RunId, StepKey
from manta.messages import Usage
from tests.store.support import (
    TENANT,
    a_run,
    at_work,
    blank_journal,
    claimed,
    done,
    in_one_group,
    intent,
    note,
    outcome,
    scope,
    seqs,
    started,
    statements,
)

STEP_OF_A_CHAIN = [done("a"), note("step_done"), started("b"), note("step_started")]


async def test_a_step_costs_a_fraction_of_a_statement(journal: Journal):
    runs = [await claimed(journal) for _ in range(20)]
    await in_one_group(journal, *(journal.commit(run.id, 1, [started("a")]) for run in runs))

    with statements() as seen:
        results = await in_one_group(journal, *(journal.commit(run.id, 1, STEP_OF_A_CHAIN) for run in runs))
        seen = [statement for statement in seen if "SAVEPOINT" not in statement]

    assert all([event.seq for event in events] == [1, 2] for events in results)
    # One look at the runs, then steps, events and runs.
    assert len(seen) == 4, seen


async def test_a_commit_alone_costs_no_more_than_a_group(journal: Journal):
    run = await claimed(journal)
    await journal.commit(run.id, 1, [started("a")])

    with statements() as seen:
        await journal.commit(run.id, 1, STEP_OF_A_CHAIN)
    assert len(seen) == 4, seen


async def test_creations_share_their_statements(journal: Journal):
    with statements() as seen:
        results = await in_one_group(
            journal, *(journal.create_run(a_run(metadata={"n": n}), "me") for n in range(20))
        )
        seen = [statement for statement in seen if "SAVEPOINT" not in statement]

    # Numbers, graph, runs, inputs, labels.
    assert len(seen) == 5, seen
    assert [created for _, created in results] == [True] * 20
    assert [run.id for run in await journal.list_runs(TENANT, limit=20)] == [r.id for r, _ in results][::-1]
    assert all([await journal.get_run(TENANT, record.id) == record for record, _ in results])


async def test_one_that_does_not_fit_spares_the_others(journal: Journal):
    runs = [await at_work(journal) for _ in range(4)]
    await journal.commit(runs[1].id, 1, [done()])
    await journal.commit(runs[2].id, 1, [RunChange("success")])

    results = await in_one_group(
        journal,
        journal.commit(runs[0].id, 1, [done(output=0), note()]),
        journal.commit(runs[1].id, 1, [done(output="again"), note()]),
        journal.commit(runs[2].id, 1, [note()]),
        journal.commit(runs[3].id, 9, [note()]),
        journal.commit(runs[3].id, 1, [note(), done(output={"x": object()})]),
        journal.commit(runs[0].id, 1, [note()]),
        journal.create_run(a_run(idempotency_key="k")),
        journal.create_run(a_run(idempotency_key="k", body_hash="other")),
    )

    kinds = [list, Conflict, Conflict, StaleEpoch, InvalidInput, list, tuple, IdempotencyConflict]
    assert [type(result) for result in results] == kinds
    assert [r.code for r in results[1:3]] == ["step_done", "run_terminal"]
    assert [await seqs(journal, run.id) for run in runs] == [[1, 2], [], [], []]
    assert [[s.output for s in await journal.steps(run.id)] for run in runs] == [[0], [None], [None], [None]]
    assert len(await journal.list_runs(TENANT)) == 5


async def test_several_commits_of_one_run_and_step_build_on_each_other(journal: Journal):
    run = await claimed(journal)

    results = await in_one_group(
        journal,
        journal.commit(run.id, 1, [started(agent="a", input={"n": 1}), note()]),
        journal.commit(run.id, 1, [note(), note()]),
        journal.commit(run.id, 1, [done(output=5, usage=Usage(milliseconds=7)), started("b"), note()]),
        journal.commit(run.id, 1, [RunChange("success", output=5), note("run_done")]),
    )

    assert [[event.seq for event in events] for events in results] == [[1], [2, 3], [4], [5]]
    first, second = await journal.steps(run.id)
    assert (first.state, first.agent, first.input, first.output) == ("done", "a", {"n": 1}, 5)
    assert first.started_at is not None
    assert second.key == "b"
    record = await journal.get_run(TENANT, run.id)
    assert (record.status, record.output, record.usage.milliseconds) == ("success", 5, 7)


async def test_nothing_follows_the_end_of_a_run_in_its_group(journal: Journal):
    run = await claimed(journal)

    results = await in_one_group(
        journal,
        journal.commit(run.id, 1, [RunChange("success"), note("run_done")]),
        journal.commit(run.id, 1, [note()]),
    )

    assert [type(result) for result in results] == [list, Conflict]
    assert await seqs(journal, run.id) == [1]


async def test_calls_in_flight_are_given_up_in_a_group_too(journal: Journal):
    run, other = await at_work(journal), await at_work(journal)
    for each in (run, other):
        await journal.begin_call(intent(scope(each), reserve=Usage(5)))

    with statements() as seen:
        await in_one_group(
            journal,
            journal.commit(run.id, 1, [started(attempt=2)]),
            journal.commit(other.id, 1, [started("elsewhere")]),
        )

    assert not any("SAVEPOINT one" in statement for statement in seen[3:])
    assert [c.call.state for c in await journal.calls(run.id)] == ["unknown"]
    assert [c.call.state for c in await journal.calls(other.id)] == ["intent"]
    await journal.finish_call(outcome(scope(other)))


async def test_a_caller_that_leaves_the_queue_gets_nothing_written(journal: Journal):
    run = await claimed(journal)
    leaving: list[asyncio.Task[Any]] = []

    async def leave() -> None:
        leaving.append(asyncio.create_task(journal.commit(run.id, 1, [note(n=1)])))
        await asyncio.sleep(0)
        leaving[0].cancel()

    await in_one_group(journal, leave(), journal.commit(run.id, 1, [note(n=2)]))
    assert leaving[0].cancelled()
    assert [event.data for event in await journal.events(run.id)] == [{"n": 2}]


# The same groups, once as they come and once with everything done one by one.

KEYS = st.sampled_from(["a", "b", "b[0]"])
CHANGES = st.one_of(
    st.builds(
        StepChange,
        KEYS.map(StepKey),
        st.just("s"),
        st.none(),
        st.sampled_from(["started", "started", "done", "failed", "skipped", "waiting"]),
        st.integers(1, 3),
        agent=st.sampled_from([None, "x"]),
        input=st.sampled_from([None, {"n": 1}]),
        output=st.sampled_from([None, 1, "two"]),
        usage=st.builds(Usage, milliseconds=st.integers(0, 3)),
    ),
    st.builds(EventDraft, st.just("call_done"), st.none(), st.sampled_from([{}, {"n": 1}])),
    st.builds(
        RunChange, st.sampled_from(["success", "error", "waiting"]), reason=st.sampled_from([None, "r"])
    ),
)
COMMITS = st.tuples(
    st.integers(0, 2), st.sampled_from([1, 1, 1, 1, 2]), st.lists(CHANGES, min_size=1, max_size=4)
)
CREATIONS = st.tuples(st.sampled_from([None, "k", "l"]), st.sampled_from("xy"), st.sampled_from([None, "me"]))
GROUPS = st.lists(st.lists(st.one_of(COMMITS, CREATIONS), min_size=1, max_size=8), min_size=1, max_size=4)


def _new(number: int, **changes: Any) -> NewRun:
    return a_run(id=RunId(f"{number:08x}-0000-4000-8000-000000000000"), **changes)


async def _played(
    folder: Path, groups: Sequence[Sequence[Any]], together: bool
) -> tuple[list[Any], list[str]]:
    journal = await Journal.open(blank_journal(folder / f"{together}.db"), ManualClock())
    if not together:
        for kind in (journal._commits, journal._creations):
            kind.together = lambda connection, items: None  # type: ignore[method-assign]
    told: list[Any] = []
    for n in range(3):
        await journal.create_run(_new(n), "me")
    number = 3
    for group in groups:
        works = []
        for item in group:
            if isinstance(item[0], int):
                works.append(journal.commit(_new(item[0]).id, item[1], item[2]))
            else:
                new = _new(number, idempotency_key=item[0], body_hash=item[1])
                works.append(journal.create_run(new, item[2]))
                number += 1
        results = await in_one_group(journal, *works)
        told += [(type(r), str(r)) if isinstance(r, MantaError) else r for r in results]
    await journal.close()
    with sqlite3.connect(folder / f"{together}.db") as file:
        dump = list(file.iterdump())
    file.close()
    return told, dump


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(GROUPS)
def test_together_and_one_by_one_come_to_the_same(groups: list[list[Any]]):
    async def both() -> tuple[Any, Any]:
        with tempfile.TemporaryDirectory() as folder:
            return (
                await _played(Path(folder), groups, True),
                await _played(Path(folder), groups, False),
            )

    (told, dump), (told_apart, dump_apart) = asyncio.run(both())
    assert told == told_apart
    assert dump == dump_apart


@pytest.mark.parametrize("count", [1, 7])
async def test_flushes_are_counted(journal: Journal, count: int):
    run = await claimed(journal)
    before = journal.flushes

    for _ in range(count):
        await journal.commit(run.id, 1, [note()])
    assert journal.flushes == before + count
