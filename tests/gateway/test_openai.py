"""The chat route: what is taken, what is the caller's error, and models that stop when nobody listens."""

import asyncio
import gc
import json
from typing import Any

import pytest

from agents.scripted import ScriptedModel, ScriptedStep
from manta.errors import ModelError
from manta.messages import ToolCall
from tests.gateway.platform import Local, Visitor
from tests.waiting import eventually

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def expect(model: ScriptedModel, *steps: ScriptedStep) -> None:
    model._left.extend(steps)


def call(arguments: Any) -> list[Any]:
    function = {"name": "add", "arguments": arguments}
    return [
        *HELLO,
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": function}]},
    ]


BAD: dict[str, dict[str, Any]] = {
    "calls of text": {"messages": [{"role": "assistant", "tool_calls": ["x"]}]},
    "calls that are no list": {"messages": [{"role": "assistant", "tool_calls": {"a": 1}}]},
    "a call without a function": {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]},
    "a call of a text": {"messages": [{"role": "assistant", "tool_calls": [{"function": "x"}]}]},
    "arguments as an object": {"messages": call({"a": 1})},
    "arguments as a list": {"messages": call("[1]")},
    "arguments that are no json": {"messages": call("{")},
    "arguments with nan": {"messages": call('{"a": NaN}')},
    "arguments too deep": {"messages": call('{"a":' * 50_000 + "1" + "}" * 50_000)},
    "arguments with half a character": {"messages": call('{"a": "\\ud800"}')},
    "arguments with a huge number": {"messages": call('{"a": ' + "9" * 5000 + "}")},
    "a message of text": {"messages": ["hello"]},
    "a message of nothing": {"messages": [None]},
    "a message without a role": {"messages": [{"content": "x"}]},
    "a role that is a list": {"messages": [{"role": ["user"], "content": "x"}]},
    "content that is a number": {"messages": [{"role": "user", "content": 1}]},
    "a picture": {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    "a name that is a number": {"messages": [{"role": "user", "content": "x", "name": 1}]},
    "an id that is an object": {"messages": [{"role": "tool", "content": "x", "tool_call_id": {}}]},
    "no messages": {"messages": []},
    "messages are null": {"messages": None},
    "a tool of text": {"tools": ["x"]},
    "a tool's function of text": {"tools": [{"function": "x"}]},
    "a tool without a name": {"tools": [{"type": "function", "function": {}}]},
    "parameters of text": {"tools": [{"function": {"name": "f", "parameters": "x"}}]},
    "a choice of an unknown tool": {"tool_choice": {"type": "function", "function": {"name": "add"}}},
    "a choice of a number": {"tool_choice": 7},
    "a choice of text": {"tool_choice": "add", "tools": [ADD]},
    "a choice of an empty object": {"tool_choice": {}, "tools": [ADD]},
    "nine answers": {"n": 9},
    "a huge seed": {"seed": 2**64},
    "huge max_tokens": {"max_tokens": 10**30},
    "too warm": {"temperature": 3},
    "a stop of numbers": {"stop": [1]},
}


async def test_what_cannot_be_read_is_the_callers_error(local: Local):
    for name, body in BAD.items():
        answer = await local.json("POST", CHAT, 400, json={"model": "sleeper", "messages": HELLO, **body})
        error = answer["error"]
        assert error["type"] == "invalid_request_error", name
        assert error["code"] in ("invalid_value", "invalid_type", "invalid_json"), name
        assert error["code"] == "invalid_json" or error["param"].startswith(next(iter(body))), name


async def test_nulls_are_as_good_as_nothing(local: Local, scripted: ScriptedModel):
    expect(scripted, ScriptedStep(text="hi"), ScriptedStep(text="hi"))
    names = ("temperature", "top_p", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens")
    names += ("stop", "seed", "tools", "tool_choice", "response_format", "logit_bias", "user")
    nulls = {name: None for name in names}
    await local.json("POST", CHAT, json={"model": "scripted", "messages": HELLO, **nulls})
    await local.json("POST", CHAT, json={"model": "scripted", "messages": HELLO})
    assert scripted.requests[0] == scripted.requests[1]
    assert (scripted.requests[0].temperature, scripted.requests[0].top_p) == (1.0, 1.0)
    message = {"role": "user", "content": None, "tool_calls": None, "name": None}
    body = {"model": None, "messages": [message], "stream_options": {"include_usage": None}, "max_tokens": 1}
    assert (await local.json("POST", CHAT, json=body))["model"] == "sleeper"


@pytest.mark.parametrize(
    ("choice", "kept"),
    [
        ({"type": "function", "function": {"name": "add"}}, "add"),
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
    ],
)
async def test_a_tool_choice_reaches_the_model(local: Local, scripted: ScriptedModel, choice: Any, kept: str):
    expect(scripted, ScriptedStep(tool_calls=(ToolCall("1", "add", {"a": 1}),)))
    body = {"model": "scripted", "messages": HELLO, "tools": [ADD], "tool_choice": choice}
    answer = await local.json("POST", CHAT, json=body)
    assert scripted.requests[0].tool_choice == kept
    (made,) = answer["choices"][0]["message"]["tool_calls"]
    assert json.loads(made["function"]["arguments"]) == {"a": 1}


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unknown_model_is_not_found(local: Local, stream: bool):
    body = {"model": "none", "messages": HELLO, "stream": stream}
    assert (await local.json("POST", CHAT, 404, json=body))["error"]["code"] == "model_not_found"
    assert (await local.json("GET", "/v1/models/none", 404))["error"]["code"] == "model_not_found"


async def test_a_stream_has_role_text_finish_and_usage(local: Local):
    body = {"messages": HELLO, "max_tokens": 2, "stream": True, "stream_options": {"include_usage": True}}
    response = await local.http.post(CHAT, json=body)
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "word0 "}, {"content": "word1 "}, {}]
    assert chunks[-1]["usage"]["completion_tokens"] == 2


async def test_an_error_in_the_middle_comes_in_band(local: Local, scripted: ScriptedModel):
    expect(scripted, ScriptedStep(text="one two", error=ModelError("it died"), error_after=1))
    body = {"model": "scripted", "messages": HELLO, "stream": True}
    text = (await local.http.post(CHAT, json=body)).text
    assert "it died" in text
    assert "[DONE]" not in text


async def test_an_error_before_the_first_word_is_a_status(local: Local, scripted: ScriptedModel):
    expect(scripted, ScriptedStep(text="one", error=ModelError("it died")))
    await local.json("POST", CHAT, 502, json={"model": "scripted", "messages": HELLO, "stream": True})


@pytest.mark.parametrize("way", ["leave", "be_cut"])
async def test_a_model_stops_when_its_listener_leaves(local: Local, scripted: ScriptedModel, way: str):
    expect(scripted, ScriptedStep(text="one two three", gate=asyncio.Event()))
    visitor = Visitor(local.api, CHAT, {"model": "scripted", "messages": HELLO, "stream": True})
    await visitor.see("one")
    await getattr(visitor, way)()
    assert scripted.cut_short == 1


async def test_a_model_stops_at_once_when_its_listener_stops_reading(local: Local, scripted: ScriptedModel):
    """The stream is held up in sending, so nothing is thrown into its generator; nor may garbage collection do it."""
    expect(scripted, ScriptedStep(text="one two three"))
    full = asyncio.Event()
    visitor = Visitor(local.api, CHAT, {"model": "scripted", "messages": HELLO, "stream": True})

    async def stuck(body: bytes) -> None:
        full.set()
        await asyncio.Event().wait()

    visitor._pieces.put = stuck  # type: ignore[assignment]
    await full.wait()
    gc.disable()
    try:
        await visitor.be_cut()
        assert scripted.cut_short == 1
    finally:
        gc.enable()


async def test_a_model_stops_when_its_listener_left_before_the_headers(local: Local, scripted: ScriptedModel):
    expect(scripted, ScriptedStep(text="one two three"))
    visitor = Visitor(local.api, CHAT, {"model": "scripted", "messages": HELLO, "stream": True})
    await visitor._inbox.put({"type": "http.disconnect"})
    await eventually(visitor.task.done, "the request being over")
    assert scripted.cut_short == 1
