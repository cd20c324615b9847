"""What a task's options say is what the worker does: one tool, one function, and nothing it does not know."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from agents.current_task import current_task
from agents.scripted import ScriptedModel, ScriptedStep
from manta.errors import InvalidConfig, InvalidInput, OutcomeUnknown, PlatformError, StepError, ToolError
from manta.messages import ChatMessage, ChatRequest
from manta.protocols import AgentContext
from tests.agents.step_support import DyingLog, StepBench
from tools.toolbox import Toolbox, tool

HERE = __name__
sent: list[str] = []


@tool(idempotent=False)
async def send(text: str) -> dict[str, str]:
    """Sends a text."""
    sent.append(text)
    return {"sent": text}


def double(n: int, factor: int = 2) -> dict[str, Any]:
    return {"n": n * factor, "thread": threading.current_thread() is not threading.main_thread()}


async def asks(context: AgentContext, text: str) -> str:
    request = ChatRequest((ChatMessage("user", text),))
    return "".join([chunk.text async for chunk in context.model.stream(request)])


async def own_context(context: str) -> str:
    return context


def breaks() -> None:
    raise ValueError("no such luck")


async def looks_round() -> str:
    return current_task().context.task.model


@pytest.fixture
def bench(tmp_path: Path) -> StepBench:
    return StepBench(tmp_path, ScriptedModel([ScriptedStep("hello", "well hello")]))


async def test_a_tool_step_is_one_recorded_call(tmp_path: Path):
    sent.clear()
    bench = StepBench(tmp_path, ScriptedModel([]), tools=Toolbox([send]))
    for attempt in (1, 2):
        assert await bench.run({"tool": "send"}, {"text": "hi"}, attempt) == {"sent": "hi"}
    assert sent == ["hi"]
    assert bench.replayed == [False, True]
    with pytest.raises(ToolError, match="no tool 'none'"):
        await bench.run({"tool": "none"}, {}, 3)


async def test_a_tool_that_must_not_run_twice_does_not(tmp_path: Path):
    sent.clear()
    bench = StepBench(tmp_path, ScriptedModel([]), log=DyingLog(1), tools=Toolbox([send]))
    await bench.die({"tool": "send"}, {"text": "hi"})
    with pytest.raises(OutcomeUnknown):
        await bench.run({"tool": "send"}, {"text": "hi"}, 2)
    assert sent == ["hi"]


async def test_a_plain_function_works_in_a_thread(bench: StepBench):
    assert await bench.run({"call": f"{HERE}:double"}, {"n": 4}) == {"n": 8, "thread": True}


async def test_a_function_may_ask_for_the_context_and_its_calls_are_recorded(bench: StepBench):
    for attempt in (1, 2):
        assert await bench.run({"call": f"{HERE}:asks"}, {"text": "hello"}, attempt) == "well hello"
    assert bench.replayed == [False, True]
    assert await bench.run({"call": f"{HERE}:own_context"}, {"context": "mine"}) == "mine"
    assert await bench.run({"call": f"{HERE}:looks_round"}) == "small"


@pytest.mark.parametrize(
    ("path", "given", "kind", "cause"),
    [
        ("no.such:thing", {}, InvalidConfig, "cannot import no.such:thing"),
        (f"{HERE}:none", {}, InvalidConfig, "cannot import"),
        (f"{HERE}:double", {}, StepError, "missing a required argument: 'n'"),
        (f"{HERE}:double", {"n": 1, "x": 1}, StepError, "unexpected keyword argument 'x'"),
        (f"{HERE}:breaks", {}, StepError, "breaks failed: ValueError: no such luck"),
        (f"{HERE}:sent", {}, StepError, "is not a callable object"),
    ],
)
async def test_a_call_that_cannot_be_made_says_why(bench: StepBench, path, given, kind, cause):
    with pytest.raises(kind) as caught:
        await bench.run({"call": path}, given)
    assert cause in str(caught.value)
    assert caught.value.fix


async def test_a_task_that_says_nothing_is_refused(bench: StepBench):
    for options in ({}, {"dance": "x"}, {"call": 3}):
        with pytest.raises(InvalidInput):
            await bench.run(options)


async def test_nothing_is_current_outside_a_task():
    with pytest.raises(PlatformError):
        current_task()


async def test_a_cancelled_function_is_cancelled(bench: StepBench):
    work = asyncio.ensure_future(bench.run({"call": f"{HERE}:forever"}))
    await started.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert stopped.is_set()


started, stopped = asyncio.Event(), asyncio.Event()


async def forever() -> None:
    started.set()
    try:
        await asyncio.Event().wait()
    finally:
        stopped.set()
