"""The coordinator on a real journal, with plain functions as agents."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from coordinator.retry import AGENT_LOST, MAX_DEATHS
from coordinator.service import CoordinatorService
from coordinator.store.journal import Journal
from coordinator.submission import Submission
from manta.clock import ManualClock, SystemClock
from manta.errors import (
    Conflict,
    IdempotencyConflict,
    InvalidInput,
    ModelError,
    NotFound,
    StepError,
    Unavailable,
)
from manta.graph import Graph, Names, parse_graph
from manta.ids import DEFAULT_TENANT, RunId, Tenant
from manta.messages import Task
from tests.coordinator.functions import FunctionRuntime, Start, run

T = DEFAULT_TENANT


FAST = {"attempts": 3, "min_s": 0, "max_s": 0}
CHAIN = {
    "steps": [
        {"id": "one", "agent": "add", "input": {"n": "${input.n}"}},
        {"id": "two", "agent": "add", "input": {"n": "${steps.one}"}},
    ]
}


def add(task: Task) -> int:
    return int(task.input["n"]) + 1


async def test_a_run_passes_values_and_ends_with_the_output(start: Start):
    service, _ = await start(CHAIN, {"add": add})
    record = await run(service, {"n": 5})
    assert (record.status, record.output) == ("success", 7)
    _, steps = await service.get(T, record.id)
    assert [(step.key, step.state, step.output) for step in steps] == [("one", "done", 6), ("two", "done", 7)]


async def test_events_are_gapless_and_end_with_the_run(start: Start):
    service, _ = await start(CHAIN, {"add": add})
    record = await run(service, {"n": 1})
    watch = await service.watch(T, record.id, 0, -1, 0)
    assert [event.seq for event in watch.events] == list(range(1, len(watch.events) + 1))
    kinds = [event.type for event in watch.events]
    assert kinds == ["run_started", "step_started", "step_done", "step_started", "step_done", "run_done"]
    assert watch.over
    later = await service.watch(T, record.id, 3, -1, 0)
    assert [event.seq for event in later.events] == [4, 5, 6]


async def test_parallel_steps_run_at_the_same_time(start: Start):
    meeting = asyncio.Barrier(3)

    async def meet(task: Task) -> str:
        async with asyncio.timeout(10):
            await meeting.wait()
        return "met"

    graph = {"steps": [{"id": "work", "agent": "meet", "for_each": "${input}"}]}
    service, _ = await start(graph, {"meet": meet})
    assert (await run(service, [1, 2, 3])).output == ["met"] * 3


async def test_a_passing_error_is_tried_again_and_a_lasting_one_is_not(start: Start):
    tries: list[int] = []

    def shaky(task: Task) -> str:
        tries.append(task.scope.attempt)
        if len(tries) < 3:
            raise Unavailable("not yet")
        return "at last"

    def broken(task: Task) -> None:
        raise StepError("never")

    graph = {"steps": [{"id": "s", "agent": "shaky", "retry": FAST}]}
    service, _ = await start(graph, {"shaky": shaky, "broken": broken})
    assert (await run(service)).output == "at last"
    assert tries == [1, 2, 3]

    service, runtime = await start(
        {"steps": [{"id": "s", "agent": "broken", "retry": FAST}]}, {"broken": broken}
    )
    record = await run(service)
    assert (record.status, record.error["message"]) == ("error", "never")
    assert runtime.count("s") == 1


async def test_retries_end_after_the_given_attempts(start: Start):
    def failing(task: Task) -> None:
        raise ModelError("busy")

    service, runtime = await start({"steps": [{"id": "s", "agent": "a", "retry": FAST}]}, {"a": failing})
    assert (await run(service)).error["code"] == "model_error"
    assert runtime.count("s") == 3


async def test_the_same_key_and_body_is_one_run(start: Start):
    service, runtime = await start(CHAIN, {"add": add})
    records = await asyncio.gather(
        *(service.submit(Submission("g", {"n": 1}, T, idempotency_key="k")) for _ in range(50))
    )
    assert len({record.id for record in records}) == 1
    await service.wait(T, RunId(records[0].id), 30)
    assert runtime.count("one") == 1
    with pytest.raises(IdempotencyConflict):
        await service.submit(Submission("g", {"n": 2}, T, idempotency_key="k"))


async def test_cancel_stops_the_running_step_and_nothing_comes_after(start: Start):
    working = asyncio.Event()

    async def hang(task: Task) -> None:
        working.set()
        await asyncio.Event().wait()

    service, runtime = await start(
        {"steps": [{"id": "s", "agent": "hang"}, {"id": "t", "agent": "hang", "needs": ["s"]}]},
        {"hang": hang},
    )
    record = await service.submit(Submission("g", {}, T))
    await working.wait()
    await service.cancel(T, RunId(record.id))
    ended = await service.wait(T, RunId(record.id), 30)
    assert (ended.status, ended.reason) == ("interrupted", "cancelled")
    assert runtime.stopped == ["s"]
    events = (await service.watch(T, RunId(record.id), 0, -1, 0)).events
    assert events[-1].type == "run_cancelled"
    # A cancel whose answer was lost is repeated by its sender: that is no conflict.
    assert (await service.cancel(T, RunId(record.id))).status == "interrupted"
    quick, _ = await start({"steps": [{"id": "s", "agent": "a"}]}, {"a": lambda task: 1})
    done = await run(quick)
    with pytest.raises(Conflict):
        await quick.cancel(T, done.id)


async def test_a_step_that_takes_too_long_is_stopped_and_tried_again(start: Start):
    clock = ManualClock()

    async def hang(task: Task) -> None:
        await asyncio.Event().wait()

    graph = {
        "steps": [
            {"id": "s", "agent": "hang", "timeout_s": 5, "retry": {"attempts": 2, "min_s": 1, "max_s": 1}}
        ]
    }
    service, runtime = await start(graph, {"hang": hang}, clock)
    record = await service.submit(Submission("g", {}, T))
    for attempt in (1, 2):
        async with asyncio.timeout(10):
            while runtime.count("s") < attempt:
                await clock.advance(0.5)
                await asyncio.sleep(0.001)
    async with asyncio.timeout(10):
        while (await service.get(T, RunId(record.id)))[0].status == "running":
            await clock.advance(1)
    assert (await service.get(T, RunId(record.id)))[0].error["code"] == "step_timeout"
    assert runtime.stopped == ["s", "s"]


async def test_a_restarted_coordinator_takes_up_the_run_and_repeats_no_finished_step(start: Start):
    hold = asyncio.Event()

    async def second(task: Task) -> str:
        await hold.wait()
        return f"attempt {task.scope.attempt} of epoch {task.scope.epoch}"

    graph = {"steps": [{"id": "a", "agent": "first"}, {"id": "b", "agent": "second", "needs": ["a"]}]}
    agents = {"first": lambda task: "once", "second": second}
    old, first_runtime = await start(graph, agents)
    record = await old.submit(Submission("g", {}, T))
    async with asyncio.timeout(10):
        while first_runtime.count("b") == 0:
            await asyncio.sleep(0.01)
    await old.close()
    hold.set()
    new, second_runtime = await start(graph, agents)
    ended = await new.wait(T, RunId(record.id), 30)
    assert (ended.status, ended.output) == ("success", "attempt 2 of epoch 2")
    assert second_runtime.count("a") == 0
    kinds = [event.type for event in (await new.watch(T, RunId(record.id), 0, -1, 0)).events]
    assert kinds.count("run_started") == 1
    assert kinds.count("run_resumed") == 1


async def test_refusals(start: Start):
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    service, runtime = await start({**CHAIN, "input_schema": schema}, {"add": add})
    with pytest.raises(NotFound, match="no graph 'other'"):
        await service.submit(Submission("other", {}, T))
    with pytest.raises(InvalidInput, match="'n' is a required property"):
        await service.submit(Submission("g", {}, T))
    record = await run(service, {"n": 1})
    with pytest.raises(NotFound):
        await service.get(Tenant("other"), record.id)
    assert len(runtime.tasks) == 2


async def test_tokens_reach_a_watcher_and_are_not_journaled(start: Start):
    from manta.events import Event
    from manta.ids import StepKey

    hold = asyncio.Event()

    async def wait(task: Task) -> None:
        await hold.wait()

    service, _ = await start({"steps": [{"id": "s", "agent": "a"}]}, {"a": wait})
    record = await service.submit(Submission("g", {}, T))
    first = await service.watch(T, RunId(record.id), 0, -1, 5)
    token = Event(RunId(record.id), 0, "token", 0.0, StepKey("s"), {"text": "hello"})
    service.pass_on([token])
    seen: list[Any] = []
    after, cursor = max(e.seq for e in first.events), first.cursor
    async with asyncio.timeout(10):
        while token not in seen:
            watch = await service.watch(T, RunId(record.id), after, cursor, 5)
            seen += watch.events
            after, cursor = max([after, *(e.seq for e in watch.events)]), watch.cursor
    hold.set()
    ended = await service.wait(T, RunId(record.id), 10)
    assert all(e.type != "token" for e in (await service.watch(T, ended.id, 0, -1, 0)).events)


async def test_an_unopenable_journal_is_tried_again_until_it_opens(tmp_path: Path):
    blocked = tmp_path / "folder"
    blocked.write_text("a file where the folder must be")
    clock = ManualClock()
    runtime = FunctionRuntime({})
    service = CoordinatorService(
        f"sqlite:///{blocked}/j.db", runtime, {}, Names(frozenset(), frozenset()), clock, "me"
    )
    service.ensure_started()
    async with asyncio.timeout(10):
        while not clock.sleeping:
            await asyncio.sleep(0.01)
    with pytest.raises(Unavailable, match="still opening"):
        _ = service.journal
    blocked.unlink()
    blocked.mkdir()
    await clock.advance(2)
    await service.started()
    assert sum((await service.journal.backlog()).values()) == 0
    await service.close()


def test_graph_versions_follow_the_content():
    first = parse_graph({"name": "g", **CHAIN})
    assert first.version == Graph.model_validate(first.model_dump(mode="json")).version
    assert first.version != parse_graph({"name": "g", "description": "other", **CHAIN}).version


async def test_journal_is_committed_before_a_submit_answers(start: Start, tmp_path: Path):
    service, _ = await start(CHAIN, {"add": add})
    record = await service.submit(Submission("g", {"n": 1}, T))
    other = await Journal.open(f"sqlite:///{tmp_path}/j.db", SystemClock())
    try:
        assert (await other.get_run(T, record.id)).id == record.id
    finally:
        await other.close()


@pytest.mark.parametrize("output", [{1, 2}, float("nan"), object()])
async def test_an_output_that_cannot_be_kept_ends_the_run(start: Start, output: Any):
    service, _ = await start({"steps": [{"id": "s", "agent": "a"}]}, {"a": lambda task: output})
    record = await run(service)
    assert record.status == "error"
    assert record.error["code"] == "invalid_input"


async def test_a_reference_that_does_not_fit_the_values_ends_the_run(start: Start):
    graph = {"steps": [{"id": "s", "agent": "a", "input": {"n": "${length(input.n)}"}}]}
    service, runtime = await start(graph, {"a": lambda task: 1})
    record = await run(service, {"n": 5})
    assert (record.status, record.error["code"]) == ("error", "bad_reference")
    assert not runtime.tasks


async def test_steps_of_a_run_that_ended_are_not_left_running(start: Start):
    working = asyncio.Event()

    async def hang(task: Task) -> None:
        working.set()
        await asyncio.Event().wait()

    async def fail_later(task: Task) -> None:
        await working.wait()
        raise StepError("no")

    graph = {"steps": [{"id": "hangs", "agent": "hang"}, {"id": "fails", "agent": "later"}]}
    service, _ = await start(graph, {"hang": hang, "later": fail_later})
    record = await run(service)
    _, steps = await service.get(T, record.id)
    assert {step.key: (step.state, step.error["code"]) for step in steps} == {
        "hangs": ("failed", "cancelled"),
        "fails": ("failed", "step_failed"),
    }
    assert all(step.finished_at for step in steps)


async def test_deaths_of_agents_do_not_use_up_the_retries(start: Start):
    fates = [AGENT_LOST, AGENT_LOST, "busy", AGENT_LOST, "busy"]

    def unlucky(task: Task) -> str:
        if fates:
            raise Unavailable("gone", code=fates.pop(0))
        return "at last"

    graph = {"steps": [{"id": "s", "agent": "a", "retry": {"attempts": 3, "min_s": 0, "max_s": 0}}]}
    service, _ = await start(graph, {"a": unlucky})
    assert (await run(service)).output == "at last"


async def test_a_step_that_kills_every_agent_ends(start: Start):
    def deadly(task: Task) -> None:
        raise Unavailable("gone", code=AGENT_LOST)

    service, runtime = await start({"steps": [{"id": "s", "agent": "a"}]}, {"a": deadly})
    assert (await run(service)).error["code"] == AGENT_LOST
    assert runtime.count("s") == MAX_DEATHS


async def test_a_final_refusal_of_its_own_code_is_not_tried_again(start: Start):
    def refused(task: Task) -> None:
        error = ModelError("never")
        error.retryable = False
        raise error

    def overloaded(task: Task) -> str:
        if task.scope.attempt == 1:
            raise Unavailable("full", code="overloaded")
        return "in"

    graph = {
        "steps": [
            {"id": "o", "agent": "o", "retry": FAST},
            {"id": "r", "agent": "r", "needs": ["o"], "retry": FAST},
        ]
    }
    service, runtime = await start(graph, {"r": refused, "o": overloaded})
    await run(service)
    assert (runtime.count("o"), runtime.count("r")) == (2, 1)


async def test_a_watcher_of_a_run_that_is_driven_elsewhere_waits(start: Start, tmp_path: Path):
    hold = asyncio.Event()

    async def wait(task: Task) -> None:
        await hold.wait()

    graph = {"steps": [{"id": "s", "agent": "a"}]}
    driver, _ = await start(graph, {"a": wait})
    other = CoordinatorService(
        f"sqlite:///{tmp_path}/j.db",
        FunctionRuntime({}),
        {},
        Names(frozenset(), frozenset()),
        ManualClock(),
        "other",
    )
    other._journal = driver.journal
    record = await driver.submit(Submission("g", {}, T))
    async with asyncio.timeout(10):
        while not (seen := (await driver.watch(T, record.id, 0, -1, 1)).events):
            pass
    asking = asyncio.create_task(other.watch(T, record.id, max(e.seq for e in seen) + 5, 0, 30))
    await asyncio.sleep(0.05)
    assert not asking.done()
    asking.cancel()
    hold.set()
    await driver.wait(T, record.id, 10)


async def test_a_run_keeps_the_graph_it_began_with(start: Start):
    """The graph is changed between a coordinator's death and the next one's start."""
    hold = asyncio.Event()

    async def first(task: Task) -> str:
        await hold.wait()
        return "one"

    agents = {"first": first, "old": lambda task: "old", "new": lambda task: "new"}
    old, runtime = await start(
        {"steps": [{"id": "a", "agent": "first"}, {"id": "b", "agent": "old", "needs": ["a"]}]}, agents
    )
    record = await old.submit(Submission("g", {}, T))
    async with asyncio.timeout(10):
        while not runtime.tasks:
            await asyncio.sleep(0.01)
    await old.close()
    hold.set()
    new, _ = await start(
        {"steps": [{"id": "a", "agent": "first"}, {"id": "b", "agent": "new", "needs": ["a"]}]}, agents
    )
    ended = await new.wait(T, RunId(record.id), 30)
    assert ended.output == "old"
    assert ended.graph_version == record.graph_version
    later = await new.submit(Submission("g", {}, T))
    assert (await new.wait(T, RunId(later.id), 30)).output == "new"
