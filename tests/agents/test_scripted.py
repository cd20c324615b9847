"""The scripted model plays its script and nothing else."""

import asyncio
import re
from contextlib import aclosing

import pytest

from agents.scripted import ScriptedModel, ScriptedStep
from manta.errors import ContextLengthExceeded, ModelError, StepError
from manta.messages import ChatMessage, ChatRequest, ToolCall


def ask(text: str) -> ChatRequest:
    return ChatRequest((ChatMessage("system", "rules"), ChatMessage("user", text)))


async def test_it_answers_word_by_word_and_counts():
    model = ScriptedModel([ScriptedStep("why", "because it\nis so")])
    chunks = [c async for c in model.stream(ask("why not"))]
    assert "".join(c.text for c in chunks) == "because it\nis so"
    assert chunks[-1].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.input_tokens, chunks[-1].usage.output_tokens) == (5, 4)
    model.assert_complete()


@pytest.mark.parametrize(
    ("expect", "fits"),
    [("ab", True), ("x", False), (re.compile("a.c"), True), (re.compile("^b"), False), (None, True)],
)
async def test_matchers(expect, fits):
    assert ScriptedStep(expect).matches(ask("abc")) is fits
    assert ScriptedStep(lambda r: len(r.messages) == 2).matches(ask("abc"))


async def test_an_unexpected_call_fails_at_once_and_again_at_the_end():
    model = ScriptedModel([ScriptedStep("one", "1")])
    with pytest.raises(StepError, match=r"expected: a message with 'one'") as caught:
        await anext(model.stream(ask("two")))
    assert caught.value.code == "script_mismatch"
    with pytest.raises(StepError, match="unexpected call"):
        model.assert_complete()


async def test_a_call_not_made_fails_at_the_end():
    with pytest.raises(StepError, match="1 scripted calls were not made"):
        ScriptedModel([ScriptedStep("one")]).assert_complete()


async def test_unordered_steps_are_taken_by_match():
    model = ScriptedModel([ScriptedStep("one", "1"), ScriptedStep("two", "2")], ordered=False)
    answers = ["".join([c.text async for c in model.stream(ask(q))]) for q in ("two", "one")]
    assert answers == ["2", "1"]


async def test_tool_calls_errors_and_the_window():
    call = ToolCall("c", "t", {})
    model = ScriptedModel(
        [ScriptedStep(tool_calls=(call,)), ScriptedStep(error=ModelError("down"))],
        abilities=("tools",),
        context_window=20,
    )
    assert [c.tool_calls async for c in model.stream(ask("x"))] == [(call,)]
    with pytest.raises(ModelError, match="down"):
        await anext(model.stream(ask("x")))
    with pytest.raises(ContextLengthExceeded):
        await anext(model.stream(ask("x " * 30)))
    assert (await model.info()).abilities == ("tools",)


async def test_a_gate_holds_the_answer_and_an_early_close_is_counted():
    gate = asyncio.Event()
    model = ScriptedModel([ScriptedStep(text="one two", gate=gate), ScriptedStep(text="three")])
    async with aclosing(model.stream(ask("x"))) as chunks:
        assert (await anext(chunks)).text == "one "
        waiting = asyncio.ensure_future(anext(chunks))
        await asyncio.sleep(0)
        assert not waiting.done()
        gate.set()
        assert (await waiting).text == "two"
    assert model.cut_short == 1
    assert [c.text async for c in model.stream(ask("x"))] == ["three", ""]
    assert model.cut_short == 1
