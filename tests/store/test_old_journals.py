"""A journal that an earlier version wrote is opened, read, and its unfinished runs go on."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from coordinator.store.journal import Journal
from coordinator.store.records import EventDraft, RunChange, StepChange
from manta.clock import ManualClock
from manta.errors import IdempotencyConflict, OutcomeUnknown
from manta.graph import parse_graph
from manta.ids import RunId, StepKey, Tenant
from manta.messages import CallIntent, CallOutcome, CallScope, Usage
from tests.store.support import TENANT, a_run, seqs

FIXTURES = Path(__file__).parent / "fixtures"
OLDEST = "r0001"
FINISHED, FAILED, MIDDLE, NEVER_BEGUN, CANCELLED, OTHERS = (
    RunId(f"0000000{n}-0000-4000-8000-000000000000") for n in range(1, 7)
)


@pytest.fixture
async def old(empty_url: str, clock: ManualClock) -> AsyncIterator[Journal]:
    """What version 0.1.0 had written, opened by this one."""
    url = empty_url
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as file:
            file.executescript((FIXTURES / f"{OLDEST}.sqlite.sql").read_text())
        file.close()
    else:
        with psycopg.connect(url) as server:
            server.execute((FIXTURES / f"{OLDEST}.postgresql.sql").read_bytes())
    opened = await Journal.open(url, clock)
    yield opened
    await opened.close()


async def test_finished_runs_read_as_they_were(old: Journal):
    run = await old.get_run(TENANT, FINISHED)

    assert (run.status, run.output, run.usage) == (
        "success",
        {"report": "because\x00"},
        Usage(120, 30, 0, 1, 2),
    )
    assert (run.input, run.metadata) == ({"question": "why do mantas leap? \x00 🐟"}, {"team": "sea", "n": 1})
    assert (run.priority, run.budget, run.thread, run.overrides, run.takeovers) == (0, None, None, {}, 0)
    assert [(s.key, s.state, s.output) for s in await old.steps(FINISHED)] == [
        ("plan", "done", {"questions": ["a", "b"]}),
        ("research[0]", "done", {"n": 0}),
        ("research[1]", "done", {"n": 1}),
        ("write", "done", {"report": "because\x00"}),
    ]
    assert [event.seq for event in await old.events(FINISHED)] == list(range(1, 10))
    calls = await old.calls(FINISHED, whole=True)
    assert calls[0].call.response == {"text": "two questions"}
    assert calls[0].call.request == {"messages": [{"role": "user", "content": "q"}]}


async def test_a_graph_is_kept_once_and_every_run_has_its_own(old: Journal):
    runs = await old.list_runs(TENANT)
    theirs = await old.get_run(Tenant("globex"), OTHERS)

    for run in (*runs, theirs):
        graph = parse_graph(run.graph)
        assert (graph.name, run.graph["name"]) == (run.graph_name, run.graph_name)
    assert len({id(run.graph) for run in runs if run.graph_name == "report"}) == 1
    assert {run.graph_name for run in runs} == {"report", "chat"}


async def test_lists_and_keys_of_old_runs_hold(old: Journal):
    ids = [run.id for run in await old.list_runs(TENANT)]

    assert ids == [CANCELLED, NEVER_BEGUN, MIDDLE, FAILED, FINISHED]
    assert [run.id for run in await old.list_runs(TENANT, metadata={"team": "sea"})] == [FAILED, FINISHED]
    with pytest.raises(IdempotencyConflict):
        await old.create_run(a_run(idempotency_key="key-1"))
    new, _ = await old.create_run(a_run())
    assert [run.id for run in await old.list_runs(TENANT)] == [new.id, *ids]
    assert [brief.id for brief in await old.queued(0, 10)] == [NEVER_BEGUN, new.id]


async def test_an_unfinished_run_is_driven_to_its_end(old: Journal):
    name = "manta:coordinator"
    assert [brief.id for brief in await old.takeable(name, 10)] == [MIDDLE, OTHERS]
    assert [flag.id for flag in await old.flags(name)] == [OTHERS]
    run = await old.claim(MIDDLE, name)
    assert (run.epoch, run.takeovers) == (2, 1)
    states = {(c.step, c.call.key): c.call.state for c in await old.calls(MIDDLE)}
    assert states == {
        ("research[0]", "t0"): "done",
        ("research[0]", "0"): "unknown",
        ("research[1]", "t0"): "unknown",
    }

    for n in range(2):
        key = StepKey(f"research[{n}]")
        await old.commit(MIDDLE, 2, [StepChange(key, "research", n, "started", 2)])
    first, second = (
        CallScope(MIDDLE, StepKey(f"research[{n}]"), TENANT, attempt=2, epoch=2) for n in range(2)
    )
    replayed = await old.begin_call(CallIntent(first, "t0", "tool", "search", "h-t0", {"q": "t0"}))
    assert replayed is not None
    assert replayed.response == {"found": 7}
    # What was in flight is made again if it may be, and not if it must not.
    assert await old.begin_call(CallIntent(first, "0", "model", "smollm2", "h-0", {})) is None
    await old.finish_call(CallOutcome(first, "0", {"text": "so"}, usage=Usage(5, 1, 0, 1)))
    with pytest.raises(OutcomeUnknown):
        await old.begin_call(CallIntent(second, "t0", "tool", "send_mail", "h-t0", {}, idempotent=False))

    end = [StepChange(StepKey(f"research[{n}]"), "research", n, "done", 2, output=n) for n in range(2)]
    await old.commit(MIDDLE, 2, [*end, RunChange("success", output="well"), EventDraft("run_done")])
    assert await seqs(old, MIDDLE) == [1, 2, 3, 4, 5]
    run = await old.get_run(TENANT, MIDDLE)
    assert (run.status, run.output, run.usage) == ("success", "well", Usage(5, 1, 0, 1, 1))


async def test_an_old_failure_can_be_resumed(old: Journal):
    run = await old.reopen(TENANT, FAILED)
    assert (run.status, run.error, run.usage) == ("pending", None, Usage(50, 0, 0, 1))
    assert [c.call.state for c in await old.calls(FAILED)] == ["cleared"]
    again = await old.claim(FAILED, "me")
    await old.commit(FAILED, again.epoch, [RunChange("success"), EventDraft("run_done")])
    assert [e.type for e in await old.events(FAILED)][-2:] == ["run_resumed", "run_done"]
