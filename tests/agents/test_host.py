"""The host of an agent: its tasks side by side, stopped, failed; scratch folders; what a result carries."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agents.catalog import FunctionAgent
from agents.context import LocalArtifacts, LocalCallLog
from agents.host import AgentHost, HostParts
from agents.scripted import ScriptedModel, ScriptedStep
from manta.errors import BudgetExceeded, MantaError, NotFound, OutcomeUnknown, StepError
from manta.messages import CallHints, CallIntent, CallScope, ChatMessage, ChatRequest, RecordedCall, Task
from manta.protocols import AgentContext, CallLog, ChatModel
from tests.agents.loop_support import FewDocuments


class OneModel:
    def __init__(self, model: ChatModel) -> None:
        self.model = model

    def resolve(self, name: str) -> str:
        return name or "scripted"

    def get(self, name: str) -> ChatModel:
        if name not in ("", "scripted"):
            raise NotFound(f"there is no model {name!r}")
        return self.model


def a_host(
    agent: Any, folder: Path, *, model: ChatModel | None = None, log: CallLog | None = None, **options: Any
) -> AgentHost:
    kept = log or LocalCallLog()
    parts = HostParts(
        OneModel(model or ScriptedModel([])), FewDocuments(), LocalArtifacts(folder), lambda task: kept
    )
    return AgentHost(FunctionAgent(agent), parts, **options)


def a_task(step: str = "s", attempt: int = 1, **fields: Any) -> Task:
    return Task(CallScope("run", step, attempt=attempt), "agent", {"step": step}, **fields)  # type: ignore[arg-type]


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_the_output_comes_back_with_what_was_used(tmp_path):
    async def agent(context: AgentContext) -> str:
        request = ChatRequest((ChatMessage("user", "hello"),))
        return "".join([chunk.text async for chunk in context.model.stream(request)])

    result = await a_host(agent, tmp_path, model=ScriptedModel([ScriptedStep(text="a b")])).perform(a_task())
    assert (result.output, result.error) == ("a b", None)
    assert (result.usage.model_calls, result.usage.output_tokens) == (1, 2)


@pytest.mark.parametrize(
    ("raised", "code"),
    [(NotFound("no such thing"), "not_found"), (ValueError("a defect"), "step_failed")],
)
async def test_what_goes_wrong_is_in_the_result(tmp_path, raised: Exception, code: str):
    async def agent(context: AgentContext) -> None:
        raise raised

    result = await a_host(agent, tmp_path).perform(a_task())
    assert result.error is not None
    assert (result.error["code"], result.output) == (code, None)


async def test_an_output_that_is_not_json_is_refused(tmp_path):
    async def agent(context: AgentContext) -> Any:
        return {"x": float("nan")}

    result = await a_host(agent, tmp_path).perform(a_task())
    assert result.error is not None
    assert result.error["code"] == "output_not_json"


async def test_a_model_that_is_not_there_is_named(tmp_path):
    async def agent(context: AgentContext) -> None:
        """Is never reached."""

    result = await a_host(agent, tmp_path).perform(a_task(model="other"))
    assert result.error is not None
    assert "other" in result.error["message"]


async def test_a_scratch_folder_is_made_when_it_is_asked_for_and_gone_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen: list[Path] = []

    async def agent(context: AgentContext) -> None:
        assert list(tmp_path.iterdir()) == []
        folder = context.workdir
        assert context.workdir == folder
        (folder / "file").write_text("x")
        seen.append(folder)

    assert (await a_host(agent, tmp_path / "files").perform(a_task())).error is None
    assert seen
    assert list(tmp_path.iterdir()) == []


async def test_no_more_tasks_at_once_than_it_may_work_on_and_the_urgent_first(tmp_path):
    order: list[str] = []
    gate = asyncio.Event()

    async def agent(context: AgentContext) -> None:
        order.append(context.task.scope.step)
        await gate.wait()

    host = a_host(agent, tmp_path, concurrency=1)
    tasks = [("first", 0), ("later", 5), ("sooner", -5)]
    work = [
        asyncio.create_task(host.perform(a_task(step, hints=CallHints(priority=priority))))
        for step, priority in tasks
    ]
    await until(lambda: order)
    assert order == ["first"]
    gate.set()
    await asyncio.gather(*work)
    assert order == ["first", "sooner", "later"]


async def test_a_newer_attempt_stops_an_older_one(tmp_path):
    stopped: list[int] = []
    began: list[int] = []

    async def agent(context: AgentContext) -> int:
        attempt = context.task.scope.attempt
        began.append(attempt)
        if attempt == 1:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.append(attempt)
        return attempt

    host = a_host(agent, tmp_path)
    first = asyncio.create_task(host.perform(a_task(attempt=1)))
    await until(lambda: began)
    assert (await host.perform(a_task(attempt=2))).output == 2
    old = await first
    assert old.error is not None
    assert (old.error["code"], stopped) == ("cancelled", [1])


async def test_cancelling_whoever_waits_stops_the_work(tmp_path):
    stopped, began = asyncio.Event(), asyncio.Event()

    async def agent(context: AgentContext) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    waiting = asyncio.create_task(a_host(agent, tmp_path).perform(a_task()))
    await began.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert stopped.is_set()


async def test_after_a_defect_the_host_goes_on(tmp_path):
    async def agent(context: AgentContext) -> str:
        if context.task.scope.attempt == 1:
            raise RuntimeError("once")
        return "fine"

    host = a_host(agent, tmp_path, concurrency=1)
    assert (await host.perform(a_task())).error is not None
    assert (await host.perform(a_task(attempt=2))).output == "fine"


class Refusing(LocalCallLog):
    """A record that refuses every call."""

    def __init__(self, error: MantaError) -> None:
        super().__init__()
        self.error = error

    async def begin(self, intent: CallIntent) -> RecordedCall | None:
        raise self.error


@pytest.mark.parametrize("swallows", [True, False])
async def test_a_refused_call_ends_the_task_whatever_the_agent_makes_of_it(tmp_path, swallows: bool):
    async def agent(context: AgentContext) -> str:
        async def run() -> None:
            """Is never reached."""

        try:
            await context.call_tool("pay", {}, run, idempotent=False)
        except MantaError as error:
            if not swallows:
                raise StepError("something went wrong") from error
        return "went on"

    spent = BudgetExceeded("10 of 5 tokens")
    result = await a_host(agent, tmp_path, log=Refusing(spent)).perform(a_task())
    assert result.error is not None
    assert (result.error["code"], result.error["retryable"]) == ("budget_exceeded", False)
    assert (result.output, result.unknown_call) == (None, None)

    unknown = OutcomeUnknown("who knows")
    result = await a_host(agent, tmp_path, log=Refusing(unknown)).perform(a_task())
    assert result.error is not None
    assert result.error["code"] == "outcome_unknown"
    assert result.unknown_call is not None
    assert result.unknown_call.startswith("tool:")


async def test_what_no_call_took_along_is_noted_in_the_result(tmp_path):
    async def agent(context: AgentContext) -> int:
        await context.model.info()
        return await context.model.count_tokens((ChatMessage("user", "one two"),))

    result = await a_host(agent, tmp_path).perform(a_task())
    assert result.notes is not None
    assert list(result.notes["info"]) == ["scripted"]
    assert list(result.notes["counts"].values()) == [result.output]
