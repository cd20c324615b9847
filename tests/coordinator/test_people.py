"""Runs that wait for a person: they hold nothing, and go on by what is decided."""

import asyncio
from typing import Any

import pytest

from manta.clock import ManualClock
from manta.errors import Conflict, InvalidInput, NotFound, OutcomeUnknown
from manta.ids import DEFAULT_TENANT as T
from manta.ids import RunId, StepKey, Tenant
from manta.messages import Task, TaskResult
from tests.coordinator.functions import FunctionRuntime, Start, run

GRAPH: dict[str, Any] = {
    "steps": [
        {"id": "draft", "agent": "write"},
        {"id": "ok", "approval": {"question": "Publish?", "show": "${steps.draft}"}},
        {"id": "publish", "agent": "publish", "input": {"text": "${steps.ok.value}"}},
    ]
}


def agents(published: list[Any]) -> dict[str, Any]:
    def publish(task: Task) -> str:
        published.append(task.input["text"])
        return "out"

    return {"write": lambda task: "hello", "publish": publish}


async def test_a_run_waits_without_anything_in_memory_and_goes_on_when_approved(start: Start):
    published: list[Any] = []
    service, _ = await start(GRAPH, agents(published))
    waiting = await run(service)
    assert (waiting.status, waiting.reason, waiting.owner) == ("waiting", "waiting", None)
    assert service.health()["active"] == 0
    assert not service.live.drives(waiting.id)
    _, steps = await service.get(T, waiting.id)
    asked = next(step for step in steps if step.key == "ok")
    assert asked.state == "waiting"
    assert (asked.waiting["question"], asked.waiting["show"]) == ("Publish?", "hello")
    assert published == []

    await service.decide(T, waiting.id, None, "approve", by="ann", comment="good")
    ended = await service.wait(T, waiting.id, 30)
    assert ended.status == "success", ended.error
    assert published == ["hello"]
    events = await service.journal.events(waiting.id)
    types = [event.type for event in events]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert types[types.index("step_waiting") : types.index("step_waiting") + 2] == [
        "step_waiting",
        "run_waiting",
    ]
    decided = next(event for event in events if event.type == "step_decided")
    assert decided.data == {"action": "approve", "by": "ann", "comment": "good"}


async def test_edited_text_goes_on(start: Start):
    published: list[Any] = []
    service, _ = await start(GRAPH, agents(published))
    waiting = await run(service)
    await service.decide(T, waiting.id, StepKey("ok"), "edit", "better", by="ann")
    assert (await service.wait(T, waiting.id, 30)).status == "success"
    assert published == ["better"]


async def test_rejected_it_fails_and_a_resume_asks_again(start: Start):
    published: list[Any] = []
    service, runtime = await start(GRAPH, agents(published))
    waiting = await run(service)
    await service.decide(T, waiting.id, None, "reject", by="ann", comment="no")
    failed = await service.wait(T, waiting.id, 30)
    assert (failed.status, failed.error["code"]) == ("error", "rejected")
    await service.resume(T, waiting.id, None)
    again = await service.wait(T, waiting.id, 30)
    assert again.status == "waiting"
    await service.decide(T, waiting.id, None, "approve", by="ann")
    assert (await service.wait(T, waiting.id, 30)).status == "success"
    assert runtime.count("draft") == 1


async def test_bad_decisions(start: Start):
    service, _ = await start(GRAPH, agents([]))
    waiting = await run(service)
    with pytest.raises(InvalidInput):
        await service.decide(T, waiting.id, None, "resolve", 1, by="ann")
    with pytest.raises(Conflict):
        await service.decide(T, waiting.id, StepKey("draft"), "approve", by="ann")
    with pytest.raises(NotFound):
        await service.decide(Tenant("other"), waiting.id, None, "approve", by="eve")
    await service.decide(T, waiting.id, None, "approve", by="ann")
    ended = await service.wait(T, waiting.id, 30)
    assert ended.status == "success"
    with pytest.raises(Conflict):
        await service.decide(T, waiting.id, None, "reject", by="bob")


async def test_other_branches_go_on_while_one_waits(start: Start):
    gate = asyncio.Event()

    async def slow(task: Task) -> str:
        await gate.wait()
        return "slow"

    graph = {
        "steps": [
            {"id": "ok", "approval": {"question": "?", "show": 1}},
            {"id": "side", "agent": "slow"},
            {"id": "after", "agent": "quick", "input": {"v": "${steps.ok.value}"}},
        ],
        "output": {"side": "${steps.side}", "after": "${steps.after}"},
    }
    service, runtime = await start(graph, {"slow": slow, "quick": lambda task: task.input["v"]})
    begun = asyncio.ensure_future(run(service))
    async with asyncio.timeout(20):
        while not (runs := await service.search(T)) or not runtime.count("side"):
            await asyncio.sleep(0.01)
        await service.decide(T, runs[0].id, None, "approve", by="ann")
        while not runtime.count("after"):
            await asyncio.sleep(0.01)
    gate.set()
    assert (await begun).output == {"side": "slow", "after": 1}


async def test_an_approval_expires(start: Start):
    clock = ManualClock()
    graph = {"steps": [{"id": "ok", "approval": {"question": "?", "timeout_s": 3600}}]}
    service, _ = await start(graph, {}, clock)
    waiting = await run(service)
    assert waiting.wake_at == pytest.approx(clock.now() + 3600)
    async with asyncio.timeout(20):
        while (record := (await service.get(T, waiting.id))[0]).status == "waiting":
            await clock.advance(600)
            await asyncio.sleep(0.01)
        while record.status not in ("error", "success"):
            await asyncio.sleep(0.01)
            record, _ = await service.get(T, waiting.id)
    assert record.error["code"] == "approval_timeout"


async def test_a_waiting_run_can_be_cancelled(start: Start):
    service, _ = await start(GRAPH, agents([]))
    waiting = await run(service)
    await service.cancel(T, waiting.id)
    async with asyncio.timeout(20):
        while (record := (await service.get(T, waiting.id))[0]).status == "waiting":
            await asyncio.sleep(0.01)
        while record.status == "running":
            record, _ = await service.get(T, waiting.id)
    assert (record.status, record.reason) == ("interrupted", "cancelled")
    _, steps = await service.get(T, waiting.id)
    assert {step.key: step.state for step in steps} == {"draft": "done", "ok": "failed"}


class _Uncertain(FunctionRuntime):
    """The first try of a step leaves a call whose outcome nobody knows."""

    async def perform(self, task: Task) -> TaskResult:
        if not self.count("pay"):
            self.tasks.append(task)
            error = OutcomeUnknown("tool 'pay' was begun and its process died").to_json()
            return TaskResult(error=error, unknown_call="tool:pay:0")
        return await super().perform(task)


async def test_a_call_of_unknown_outcome_waits_for_a_person(start: Start):
    service, runtime = await start({"steps": [{"id": "pay", "agent": "pay"}]}, {"pay": lambda task: "paid"})
    runtime.__class__ = _Uncertain
    waiting = await run(service)
    assert waiting.status == "waiting"
    _, (step,) = await service.get(T, RunId(waiting.id))
    assert (step.waiting["reason"], step.waiting["call"]) == ("outcome_unknown", "tool:pay:0")
    with pytest.raises(InvalidInput):
        await service.decide(T, waiting.id, None, "approve", by="ann")
