"""Our models under LangChain's interface: nothing is lost on the way there and back."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.tools import tool as langchain_tool
from pydantic import BaseModel

from agents.chat_model import MantaChatModel
from agents.langchain_messages import to_langchain, to_manta
from agents.scripted import ScriptedModel, ScriptedStep
from manta.errors import InvalidInput, ModelError, PlatformError
from manta.messages import (
    ChatChunk,
    ChatMessage,
    ChatRequest,
    Sampling,
    TokenLogprob,
    ToolCall,
    ToolSpec,
    Usage,
)
from tools.toolbox import tool

CONVERSATION = (
    ChatMessage("system", "rules"),
    ChatMessage("user", "question"),
    ChatMessage(
        "assistant", "let me look", (ToolCall("c1", "find", {"q": "a"}), ToolCall("c2", "find", {"q": "b"}))
    ),
    ChatMessage("tool", "found a", tool_call_id="c1", name="find"),
    ChatMessage("tool", "found b", tool_call_id="c2", name="find"),
    ChatMessage("assistant", "answer"),
)


def scripted(*steps: ScriptedStep, **fields: Any) -> tuple[MantaChatModel, ScriptedModel]:
    inner = ScriptedModel(list(steps))
    return MantaChatModel(model=inner, model_name="small", **fields), inner


def test_a_conversation_survives_the_way_there_and_back():
    assert to_manta(to_langchain(CONVERSATION)) == CONVERSATION


def test_ids_of_messages_are_left_out_and_ids_of_calls_kept():
    first, second = (
        to_manta([HumanMessage("x", id=i), ToolMessage("y", tool_call_id="c9", id=i)]) for i in ("1", "2")
    )
    assert first == second
    assert first[1].tool_call_id == "c9"


def test_text_blocks_are_joined_and_other_content_is_refused():
    blocks: list[Any] = [{"type": "text", "text": "a"}, "b"]
    assert to_manta([HumanMessage(blocks)])[0].content == "ab"
    with pytest.raises(InvalidInput, match="image_url"):
        to_manta([HumanMessage([{"type": "image_url", "image_url": {"url": "x"}}])])
    with pytest.raises(InvalidInput, match="RemoveMessage"):
        to_manta([RemoveMessage(id="1")])


def test_a_call_whose_arguments_could_not_be_read_keeps_its_id():
    broken = AIMessage("", invalid_tool_calls=[{"name": "t", "args": "{", "id": "c5", "error": "x"}])
    assert to_manta([broken])[0].tool_calls == (ToolCall("c5", "t", {"unreadable": "{"}),)


async def test_an_answer_with_tool_calls_and_usage():
    model, inner = scripted(ScriptedStep("hi", "well then", (ToolCall("c1", "find", {"q": 1}),)))
    answer = await model.ainvoke([SystemMessage("rules"), HumanMessage("hi")])
    assert (answer.content, answer.tool_calls[0]["id"], answer.tool_calls[0]["args"]) == (
        "well then",
        "c1",
        {"q": 1},
    )
    assert answer.usage_metadata is not None
    assert (answer.usage_metadata["output_tokens"], answer.response_metadata["finish_reason"]) == (
        2,
        "tool_calls",
    )
    assert inner.requests[0].model == "small"
    inner.assert_complete()


async def test_streamed_chunks_add_up_to_the_whole_message():
    calls = (ToolCall("c1", "find", {"q": "a"}), ToolCall("c2", "find", {"q": "b"}))
    model, _ = scripted(ScriptedStep(text="one two", tool_calls=calls))
    pieces = [piece async for piece in model.astream("hi")]
    total = pieces[0]
    for piece in pieces[1:]:
        total += piece
    assert [p.text for p in pieces if p.text] == ["one ", "two"]
    assert isinstance(total, AIMessageChunk)
    assert to_manta([total]) == (ChatMessage("assistant", "one two", calls),)
    assert total.usage_metadata is not None
    assert total.usage_metadata["output_tokens"] == 2


async def test_stopping_to_read_closes_the_models_generator():
    model, inner = scripted(ScriptedStep(text="one two three"))
    stream = model.astream("hi")
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    assert inner.cut_short == 1


async def test_calls_without_ids_or_with_equal_ones_get_ids_of_their_own_from_their_place():
    calls = (ToolCall("", "a", {}), ToolCall("x", "b", {}), ToolCall("x", "c", {}))
    seen = []
    for streamed in (False, True):
        model, _ = scripted(ScriptedStep(tool_calls=calls))
        if streamed:
            whole = [c async for c in model.astream("hi")][-1]
        else:
            whole = await model.ainvoke("hi")
        seen.append([(c["id"], c["name"]) for c in whole.tool_calls])
    assert seen[0] == seen[1] == [("call_1_0", "a"), ("x", "b"), ("x_2", "c")]


@langchain_tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@tool
async def look(name: str) -> str:
    """Looks something up."""
    return name


async def test_tools_choice_stop_and_sampling_reach_the_model():
    model, inner = scripted(ScriptedStep(), temperature=0.7, max_tokens=9, seed=4, stop=("END",))
    spec = ToolSpec("raw", "As it is.", {"type": "object", "properties": {}})
    bound = model.bind_tools([add, look, spec], tool_choice="any")
    await bound.ainvoke("hi")
    request = inner.requests[0]
    assert [t.name for t in request.tools] == ["add", "look", "raw"]
    assert request.tools[0].parameters["properties"]["a"] == {"type": "integer"}
    assert (request.tool_choice, request.temperature, request.max_tokens) == ("required", 0.7, 9)
    assert (request.seed, request.stop) == (4, ("END",))


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("auto", "auto"),
        (True, "required"),
        (False, "none"),
        ("add", "add"),
        ({"type": "function", "function": {"name": "add"}}, "add"),
    ],
)
async def test_tool_choices(given, sent):
    model, inner = scripted(ScriptedStep())
    await model.bind_tools([add], tool_choice=given).ainvoke("hi", stop=["X"])
    assert inner.requests[0].tool_choice == sent
    assert inner.requests[0].stop == ("X",)


class Answer(BaseModel):
    """What is asked for."""

    value: int


async def test_structured_output_goes_by_response_format():
    model, inner = scripted(ScriptedStep(text='{"value": 3}'), ScriptedStep(text='{"value": 4}'))
    assert await model.with_structured_output(Answer).ainvoke("hi") == Answer(value=3)
    sent = inner.requests[0].response_format
    assert sent is not None
    assert sent["type"] == "json_schema"
    assert sent["json_schema"]["schema"]["properties"]["value"]["type"] == "integer"
    plain = model.with_structured_output(Answer.model_json_schema())
    assert await plain.ainvoke("hi") == {"value": 4}


async def test_structured_output_with_the_raw_message():
    model, _ = scripted(ScriptedStep(text='{"value": 3}'), ScriptedStep(text="no"))
    asked = model.with_structured_output(Answer, include_raw=True)
    good: Any = await asked.ainvoke("hi")
    bad: Any = await asked.ainvoke("hi")
    assert (good["parsed"], good["parsing_error"], good["raw"].content) == (
        Answer(value=3),
        None,
        '{"value": 3}',
    )
    assert (bad["parsed"], bad["raw"].content) == (None, "no")
    assert bad["parsing_error"] is not None


async def test_errors_come_through_as_they_are():
    model, _ = scripted(ScriptedStep(error=ModelError("down")))
    with pytest.raises(ModelError, match="down"):
        await model.ainvoke("hi")


async def test_a_synchronous_call_in_a_loop_is_refused():
    model, _ = scripted(ScriptedStep(text="x"))
    with pytest.raises(PlatformError, match="event loop"):
        model.invoke("hi")


def test_a_synchronous_call_without_a_loop_works():
    model, _ = scripted(ScriptedStep(text="x"))
    assert model.invoke("hi").content == "x"


async def test_text_is_shown_as_it_comes():
    shown: list[str] = []
    model, _ = scripted(ScriptedStep(text="a b"), on_token=shown.append)
    await model.ainvoke("hi")
    assert shown == ["a ", "b"]


async def test_cancelling_the_caller_closes_the_models_generator():
    never = asyncio.Event()
    model, inner = scripted(ScriptedStep(text="a b", gate=never))
    work = asyncio.create_task(model.ainvoke("hi"))
    while not inner.requests:
        await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert inner.cut_short == 1


def test_a_request_has_no_message_ids():
    model, _ = scripted()
    request: ChatRequest = model._request([HumanMessage("x", id="random")], None, {})
    assert request == ChatRequest((ChatMessage("user", "x"),), model="small")


class Thinks:
    """A model that thinks before it speaks, and tells how sure it was."""

    def __init__(self) -> None:
        self.requests: list[ChatRequest] = []

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        self.requests.append(request)
        yield ChatChunk(reasoning="hm ")
        yield ChatChunk(reasoning="so")
        for text, logprob in (("a", -0.5), ("b", -1.0)):
            yield ChatChunk(text, logprobs=(TokenLogprob(text, 7, logprob, (["x", 8, -3.0],)),))
        yield ChatChunk(finish_reason="stop", usage=Usage(3, 2))


@pytest.mark.parametrize("streamed", [False, True])
async def test_reasoning_and_logprobs_are_where_other_classes_have_them(streamed: bool):
    model = MantaChatModel(model=Thinks(), model_name="thinks", logprobs=True, top_logprobs=1)
    if streamed:
        pieces = [piece async for piece in model.astream("hi")]
        answer: AIMessage = pieces[0]
        for piece in pieces[1:]:
            answer = answer + piece  # type: ignore[assignment,operator]
    else:
        answer = await model.ainvoke("hi")
    assert (answer.text, answer.additional_kwargs["reasoning_content"]) == ("ab", "hm so")
    told = answer.response_metadata["logprobs"]["content"]
    assert [(t["token"], t["logprob"]) for t in told] == [("a", -0.5), ("b", -1.0)]
    assert told[0]["top_logprobs"] == [{"token": "x", "logprob": -3.0}]
    assert model.model.requests[0].logprobs == 1


async def test_sampling_can_be_given_with_a_call():
    inner = Thinks()
    model = MantaChatModel(model=inner, sampling=Sampling(min_p=0.1))
    await model.ainvoke("hi", top_k=5, stop_token_ids=[2], parallel_tool_calls=False)
    (request,) = inner.requests
    assert request.sampling == Sampling(top_k=5, min_p=0.1, stop_token_ids=(2,))
    assert (request.parallel_tool_calls, request.logprobs) == (False, None)
    with pytest.raises(InvalidInput, match="one answer"):
        await model.ainvoke("hi", n=2)


def test_without_a_loop_pieces_come_one_by_one_and_leaving_closes_the_model():
    model, inner = scripted(ScriptedStep(text="one two three"), ScriptedStep(text="one two three"))
    assert [piece.text for piece in model.stream("hi")][:3] == ["one ", "two ", "three"]
    stream = model.stream("hi")
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert inner.cut_short == 1
