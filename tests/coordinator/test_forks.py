"""Forks go on from a step with edited input; a resumed run does again only what had failed."""

import pytest

from coordinator.forks import Fork
from manta.errors import Conflict, NotFound, StepError
from manta.ids import DEFAULT_TENANT as T
from manta.ids import RunId, StepKey, Tenant
from manta.messages import Budget, Task
from tests.coordinator.functions import Start, run

GRAPH = {
    "steps": [
        {"id": "a", "agent": "echo", "input": {"v": "${input.v}"}},
        {"id": "b", "agent": "echo", "input": {"v": "${steps.a}b"}},
        {"id": "c", "agent": "echo", "input": {"v": "${steps.b}c"}},
        {"id": "side", "agent": "echo", "input": {"v": "side"}},
    ],
    "output": ["${steps.c}", "${steps.side}"],
}


def echo(task: Task) -> str:
    return str(task.input["v"])


async def test_a_fork_keeps_what_does_not_follow_from_the_step(start: Start):
    service, runtime = await start(GRAPH, {"echo": echo})
    first = await run(service, {"v": "x"})
    assert first.output == ["xbc", "side"]
    forked = await service.fork(T, first.id, Fork(StepKey("b"), {"v": "edited"}))
    assert forked.id != first.id
    assert forked.forked_from == first.id
    ended = await service.wait(T, forked.id, 30)
    assert ended.output == ["editedc", "side"]
    assert (runtime.count("a"), runtime.count("b"), runtime.count("c"), runtime.count("side")) == (1, 2, 2, 1)
    assert (await service.get(T, first.id))[0].output == ["xbc", "side"]
    events = await service.journal.events(forked.id)
    assert events[0].data["forked_from"] == first.id


async def test_a_fork_of_a_fork_keeps_the_edited_input(start: Start):
    service, _ = await start(GRAPH, {"echo": echo})
    first = await run(service, {"v": "x"})
    second = await service.fork(T, first.id, Fork(StepKey("b"), {"v": "edited"}))
    await service.wait(T, second.id, 30)
    third = await service.fork(T, second.id, Fork(StepKey("a")))
    assert (await service.wait(T, third.id, 30)).output == ["editedc", "side"]


async def test_the_same_fork_asked_for_twice_is_one(start: Start):
    service, _ = await start(GRAPH, {"echo": echo})
    first = await run(service, {"v": "x"})
    asked = Fork(StepKey("b"), {"v": "y"}, idempotency_key="once")
    one, two = await service.fork(T, first.id, asked), await service.fork(T, first.id, asked)
    assert one.id == two.id
    with pytest.raises(Conflict):
        await service.fork(T, first.id, Fork(StepKey("b"), {"v": "z"}, idempotency_key="once"))


async def test_bad_forks(start: Start):
    service, _ = await start(GRAPH, {"echo": echo})
    first = await run(service, {"v": "x"})
    with pytest.raises(NotFound):
        await service.fork(T, first.id, Fork(StepKey("nowhere")))
    with pytest.raises(NotFound):
        await service.fork(Tenant("other"), first.id, Fork(StepKey("b")))


async def test_a_resumed_run_does_again_only_what_failed(start: Start):
    broken = True

    def fragile(task: Task) -> str:
        if broken:
            raise StepError("broken")
        return echo(task)

    graph = {**GRAPH, "steps": [*GRAPH["steps"]]}
    graph["steps"][1] = {**graph["steps"][1], "agent": "fragile"}
    service, runtime = await start(graph, {"echo": echo, "fragile": fragile})
    failed = await run(service, {"v": "x"})
    assert (failed.status, failed.error["code"]) == ("error", "step_failed")
    broken = False
    opened = await service.resume(T, failed.id, None)
    assert opened.id == failed.id
    ended = await service.wait(T, failed.id, 30)
    assert (ended.status, ended.output) == ("success", ["xbc", "side"])
    assert ended.error is None
    assert runtime.count("a") == 1
    seqs = [event.seq for event in await service.journal.events(failed.id)]
    assert seqs == list(range(1, len(seqs) + 1))


async def test_what_went_well_cannot_be_resumed(start: Start):
    service, _ = await start(GRAPH, {"echo": echo})
    ended = await run(service, {"v": "x"})
    with pytest.raises(Conflict):
        await service.resume(T, RunId(ended.id), Budget(tokens=5))


async def test_a_run_that_is_over_can_be_deleted_and_no_other(start: Start):
    graph = {"steps": [{"id": "ok", "approval": {"question": "?"}}]}
    service, _ = await start(graph, {"echo": echo})
    waiting = await run(service)
    with pytest.raises(Conflict):
        await service.delete(T, waiting.id)
    await service.decide(T, waiting.id, None, "approve", by="ann")
    await service.wait(T, waiting.id, 30)
    with pytest.raises(NotFound):
        await service.delete(Tenant("other"), waiting.id)
    await service.delete(T, waiting.id)
    with pytest.raises(NotFound):
        await service.get(T, waiting.id)


async def test_a_failure_that_was_gone_on_from_stays_one(start: Start):
    """Its null was used: the step that used it would contradict a success now."""
    broken = True

    def fragile(task: Task) -> str:
        if broken:
            raise StepError("broken")
        return "whole"

    graph = {
        "steps": [
            {"id": "may", "agent": "fragile", "on_error": "skip"},
            {"id": "used", "agent": "echo", "input": {"v": "${steps.may}"}},
            {"id": "must", "agent": "fragile", "needs": ["used"]},
        ],
        "output": ["${steps.may}", "${steps.used}", "${steps.must}"],
    }
    service, runtime = await start(graph, {"echo": echo, "fragile": fragile})
    failed = await run(service)
    assert failed.status == "error"
    broken = False
    await service.resume(T, failed.id, None)
    assert (await service.wait(T, failed.id, 30)).output == [None, "None", "whole"]
    assert (runtime.count("may"), runtime.count("used"), runtime.count("must")) == (1, 1, 2)
