"""LangChain's runnables and LangGraph's graphs as steps: recorded, replayed, cancelled, and kept from interrupting."""

import asyncio
import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.chat import ChatMessage as RoleMessage

from agents.chat_model import PlatformChatModel
from agents.runnables import plain
from agents.scripted import ScriptedModel, ScriptedStep
from manta.errors import InvalidConfig, OutcomeUnknown, PlatformError, StepError
from manta.messages import ToolCall
from tests.agents import own_runnables as own
from tests.agents.step_support import DyingLog, StepBench

QUESTION = {"messages": [{"role": "user", "content": "How heavy is a pear?"}]}
WEIGH = ToolCall("c1", "weigh", {"thing": "pear"})
ORDER = ToolCall("c2", "order", {"thing": "pears"})


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    for seen in (own.weighed, own.orders, own.late_calls):
        seen.clear()
    own.may_go_on.clear()
    yield
    own.may_go_on.set()


def runnable(name: str) -> dict[str, str]:
    return {"runnable": f"tests.agents.own_runnables:{name}"}


def script(*more: ScriptedStep) -> ScriptedModel:
    return ScriptedModel(
        [
            ScriptedStep("How heavy", "let me see", (WEIGH,)),
            ScriptedStep("grams", "It weighs 4 grams."),
            *more,
        ]
    )


TALK = [
    {"role": "user", "content": "How heavy is a pear?"},
    {"role": "assistant", "content": "let me see"},
    {"role": "tool", "content": '{"grams": 4}'},
    {"role": "assistant", "content": "It weighs 4 grams."},
]


@pytest.mark.parametrize("name", ["agent", "remembering", "created"])
async def test_a_langgraph_graph_runs_and_its_output_is_plain_json(tmp_path: Path, name: str):
    model = script()
    bench = StepBench(tmp_path, model)
    assert await bench.run(runnable(name), QUESTION) == {"messages": TALK}
    assert "".join(bench.tokens) == "let me seeIt weighs 4 grams."
    assert "weigh" in [tool.name for tool in model.requests[0].tools]
    model.assert_complete()


@pytest.mark.parametrize("dies_at", [1, 2, 3])
async def test_a_process_that_dies_within_a_graph_repeats_only_what_was_in_flight(
    tmp_path: Path, dies_at: int
):
    steps = [
        ScriptedStep("How heavy", "let me see", (WEIGH,)),
        ScriptedStep("grams", "It weighs 4 grams."),
    ]
    again = {1: [steps[0]], 2: [], 3: [steps[1]]}[dies_at]
    model = ScriptedModel([*steps, *again], ordered=False)
    bench = StepBench(tmp_path, model, log=DyingLog(dies_at))
    await bench.die(runnable("agent"), QUESTION)
    assert await bench.run(runnable("agent"), QUESTION, 2) == {"messages": TALK}
    assert len(own.weighed) == (2 if dies_at == 2 else 1)
    assert bench.replayed == [False] * (dies_at - 1) + [True] * (dies_at - 1) + [False] * (4 - dies_at)
    model.assert_complete()
    assert await bench.run(runnable("agent"), QUESTION, 3) == {"messages": TALK}
    assert bench.replayed[-3:] == [True] * 3


async def test_a_tool_that_must_not_run_twice_ends_the_step_whatever_the_graph_makes_of_errors(
    tmp_path: Path,
):
    model = ScriptedModel([ScriptedStep("How heavy", "", (ORDER,)), ScriptedStep(None, "all is well")])
    bench = StepBench(tmp_path, model, log=DyingLog(2))
    await bench.die(runnable("agent"), QUESTION)
    assert own.orders == ["pears"]
    with pytest.raises(OutcomeUnknown):
        await bench.run(runnable("agent"), QUESTION, 2)
    assert own.orders == ["pears"]
    assert len(model.requests) == 1


async def test_a_tools_failure_is_an_outcome_and_the_graph_may_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(thing: str) -> str:
        raise ConnectionError("the shop is shut")

    monkeypatch.setattr(own.order, "func", broken)
    model = ScriptedModel([ScriptedStep("How heavy", "", (ORDER,)), ScriptedStep("shop is shut", "Shut.")])
    bench = StepBench(tmp_path, model)
    for attempt in (1, 2):
        output = await bench.run(runnable("agent"), QUESTION, attempt)
        assert output["messages"][-1] == {"role": "assistant", "content": "Shut."}
    assert bench.replayed == [False] * 3 + [True] * 3


async def test_a_chain_and_what_a_function_of_the_context_builds(tmp_path: Path):
    model = ScriptedModel([ScriptedStep("why?", "because")], ordered=False)
    bench = StepBench(tmp_path, model)
    answer = {"role": "assistant", "content": "because"}
    assert await bench.run(runnable("chain"), {"mood": "kind", "question": "why?"}) == answer
    assert model.requests[0].messages[0].content == "Be kind."
    bench = StepBench(tmp_path, ScriptedModel([ScriptedStep("why?", "because")]))
    assert await bench.run(runnable("built"), {"question": "why?"}) == answer
    assert await bench.run(runnable("built_late"), {"a": 1}, 2) == {"model": "small", "a": 1}


@pytest.mark.parametrize("name", ["in_thread", "only_sync"])
async def test_what_is_not_async_works_in_a_thread_and_is_recorded_too(tmp_path: Path, name: str):
    model = ScriptedModel([ScriptedStep("why?", "because")])
    bench = StepBench(tmp_path, model)
    outputs = [await bench.run(runnable(name), {"question": "why?"}, attempt) for attempt in (1, 2)]
    assert outputs[0] == outputs[1]
    assert (
        outputs[0]
        == {
            "in_thread": {"answer": {"role": "assistant", "content": "because"}, "main": False},
            "only_sync": {"said": "because", "weight": {"grams": 4}},
        }[name]
    )
    assert len(model.requests) == 1


async def test_another_model_by_name_unseen(tmp_path: Path):
    large = ScriptedModel([ScriptedStep("why?", "so")])
    bench = StepBench(tmp_path, ScriptedModel([]), others={"large": large})
    assert await bench.run(runnable("other_model"), {"question": "why?"}) == "so"
    assert large.requests[0].model == "large"
    assert bench.tokens == []


@pytest.mark.parametrize("name", ["asking", "stopping"])
async def test_what_would_stop_for_a_person_is_refused(tmp_path: Path, name: str):
    with pytest.raises(StepError) as caught:
        await StepBench(tmp_path, script()).run(runnable(name), QUESTION)
    assert caught.value.code == "interrupt_refused"
    assert "approval step" in caught.value.fix


@pytest.mark.parametrize(
    ("name", "kind", "cause"),
    [
        ("none", InvalidConfig, "cannot import"),
        ("uncompiled", InvalidConfig, "call its compile()"),
        ("OnlySync", InvalidConfig, "cannot be invoked"),
        ("weighed", InvalidConfig, "cannot be invoked"),
        ("built_wrong", InvalidConfig, "is a int, which cannot be invoked"),
        ("failing", StepError, "own_runnables:failing failed: KeyError: 'gone'"),
        ("on_loop", PlatformError, "inside an event loop"),
    ],
)
async def test_what_cannot_run_says_why(tmp_path: Path, name: str, kind: type, cause: str):
    with pytest.raises(kind) as caught:
        await StepBench(tmp_path, script()).run(runnable(name), {"question": "x"})
    assert cause in str(caught.value)
    assert caught.value.fix


async def test_cancelling_reaches_the_models_call(tmp_path: Path):
    gate = asyncio.Event()
    model = ScriptedModel([ScriptedStep("How heavy", "let me see", gate=gate)])
    bench = StepBench(tmp_path, model)
    work = asyncio.ensure_future(bench.run(runnable("agent"), QUESTION))
    await own.wait_until(lambda: bench.tokens)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert model.cut_short == 1


async def test_cancelling_reaches_a_call_that_a_thread_waits_for(tmp_path: Path):
    model = ScriptedModel([ScriptedStep("why?", "because of it", gate=asyncio.Event())])
    bench = StepBench(tmp_path, model)
    work = asyncio.ensure_future(bench.run(runnable("only_sync"), {"question": "why?"}))
    await own.wait_until(lambda: bench.tokens)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await own.wait_until(lambda: model.cut_short == 1)


async def test_a_thread_that_outlives_its_step_can_make_no_call(tmp_path: Path):
    model = ScriptedModel([])
    work = asyncio.ensure_future(StepBench(tmp_path, model).run(runnable("outliving"), {"question": "x"}))
    await own.wait_until(lambda: own.late_calls)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    own.may_go_on.set()
    await own.wait_until(lambda: "ended" in own.late_calls)
    assert own.late_calls == ["started", "cancelled", "ended"]
    assert model.requests == []


async def test_outside_a_task_there_is_no_model():
    with pytest.raises(PlatformError, match="no task of a run"):
        await PlatformChatModel().ainvoke("x")
    with pytest.raises(PlatformError, match="no task of a run"):
        await own.weigh_once.ainvoke({"thing": "x"})


@dataclass
class Pair:
    left: Any
    right: Any


def test_langchains_values_become_json():
    assert plain([SystemMessage("s"), HumanMessage("u"), RoleMessage(role="critic", content="c")]) == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "critic", "content": "c"},
    ]
    blocks: list[Any] = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert plain(AIMessage(blocks)) == {"role": "assistant", "content": "ab"}
    assert plain(ToolMessage("t", tool_call_id="1")) == {"role": "tool", "content": "t"}
    assert plain(Pair((1, 2), {3: None})) == {"left": [1, 2], "right": {"3": None}}
    assert plain(datetime.date(2026, 1, 2)) == "2026-01-02"
    assert plain(Document("text", metadata={"page": 1}))["page_content"] == "text"
    thing = object()
    assert plain({"x": thing}) == {"x": thing}
