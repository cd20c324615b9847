"""Responses: items in, items out, and OpenAI's events in their order, read by OpenAI's own client."""

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from manta.errors import ModelError
from manta.messages import ChatChunk, ChatMessage, ToolCall, ToolSpec, Usage
from tests.gateway.openai_support import USAGE, SaysChunks, client, events, text, token
from tests.gateway.platform import Local

PATH = "/v1/responses"
ADD: dict[str, Any] = {
    "type": "function",
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object"},
    "strict": True,
}


async def ask(said: tuple[Local, SaysChunks], status: int = 200, **fields: Any) -> Any:
    return await said[0].json("POST", PATH, status, json=fields)


async def test_a_text_and_its_answer(said):
    answer = await client(said[0]).responses.create(
        model="says",
        input="hello",
        instructions="be brief",
        metadata={"a": "b"},
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=9,
        store=True,
    )
    assert (answer.output_text, answer.status, answer.error) == ("one two", "completed", None)
    assert (answer.metadata, answer.temperature, answer.max_output_tokens) == ({"a": "b"}, 0.5, 9)
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (3, 2, 5)
    assert answer.usage.input_tokens_details.cached_tokens == 1
    request = said[1].requests[0]
    assert request.messages == (ChatMessage("system", "be brief"), ChatMessage("user", "hello"))
    assert (request.temperature, request.top_p, request.max_tokens) == (0.5, 0.9, 9)


async def test_items_become_a_conversation(said):
    items = [
        {"role": "developer", "content": "rules"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "add"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "status": "completed",
            "content": [{"type": "output_text", "text": "well", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'},
        {"type": "function_call", "call_id": "c2", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "2"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "0"}],
        },
    ]
    await ask(said, input=items, tools=[ADD], tool_choice={"type": "function", "name": "add"})
    request = said[1].requests[0]
    calls = (ToolCall("c1", "add", {"a": 1}), ToolCall("c2", "add", {}))
    assert request.messages == (
        ChatMessage("system", "rules"),
        ChatMessage("user", "add"),
        ChatMessage("assistant", "well", calls),
        ChatMessage("tool", "2", tool_call_id="c1"),
        ChatMessage("tool", "0", tool_call_id="c2"),
    )
    assert (request.tools, request.tool_choice) == ((ToolSpec("add", "Adds.", {"type": "object"}),), "add")
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "add"}]}
    await ask(said, input="x", tools=[ADD, {**ADD, "name": "sub"}], tool_choice=allowed)
    assert [tool.name for tool in said[1].requests[1].tools] == ["add"]
    assert said[1].requests[1].tool_choice == "required"


async def test_the_events_of_a_text(said):
    body = {"input": "hello", "stream": True}
    response = await said[0].http.post(PATH, json=body)
    told = events(response.text)
    assert [event["type"].removeprefix("response.") for event in told] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    names = [
        line.removeprefix("event: ") for line in response.text.splitlines() if line.startswith("event: ")
    ]
    assert names == [event["type"] for event in told]
    assert (told[0]["response"]["status"], told[0]["response"]["output"]) == ("in_progress", [])
    assert told[2]["item"]["content"] == []
    assert told[-1]["response"]["output"] == [told[-2]["item"]]
    assert told[-1]["response"]["usage"]["output_tokens"] == 2
    assert "[DONE]" not in response.text


async def test_reasoning_text_and_calls_are_items_one_after_the_other(said):
    calls = (ToolCall("call_1", "add", {"a": 1}), ToolCall("call_2", "add", {}))
    said[1].chunks = [
        ChatChunk(reasoning="hm "),
        ChatChunk(reasoning="so"),
        ChatChunk("I add"),
        ChatChunk(tool_calls=calls, finish_reason="tool_calls", usage=USAGE),
    ]
    api = client(said[0])
    asked: dict[str, Any] = {"model": "says", "input": "x", "tools": [ADD]}
    stream = await api.responses.create(**asked, stream=True)
    told = [event async for event in stream]
    kinds = [type(event).__name__ for event in told]
    assert "ResponseReasoningTextDeltaEvent" in kinds
    assert kinds.count("ResponseFunctionCallArgumentsDeltaEvent") == 2
    items = [event.item for event in told if event.type == "response.output_item.done"]
    assert [item.type for item in items] == ["reasoning", "message", "function_call", "function_call"]
    assert [event.output_index for event in told if event.type == "response.output_item.added"] == [
        0,
        1,
        2,
        3,
    ]
    final = told[-1].response  # type: ignore[union-attr]
    assert [item.to_dict() for item in final.output] == [item.to_dict() for item in items]
    whole = await api.responses.create(**asked)
    assert [item.type for item in whole.output] == [item.type for item in items]
    assert [json.loads(item.arguments) for item in whole.output[2:]] == [{"a": 1}, {}]  # type: ignore[union-attr]
    assert whole.output[0].content[0].text == "hm so"  # type: ignore[union-attr,index]
    async with api.responses.stream(**asked) as helper:
        gathered = await helper.get_final_response()
    assert gathered.output_text == "I add"


class Sum(BaseModel):
    a: int


async def test_forms_and_logprobs(said):
    said[1].chunks = [token('{"a": 3}', -0.5), *text()]
    api = client(said[0])
    answer = await api.responses.parse(
        model="says", input="x", text_format=Sum, include=["message.output_text.logprobs"], top_logprobs=2
    )
    assert answer.output_parsed == Sum(a=3)
    form = said[1].requests[0].response_format
    assert (form["type"], form["json_schema"]["name"], form["json_schema"]["strict"]) == (
        "json_schema",
        "Sum",
        True,
    )
    assert said[1].requests[0].logprobs == 2
    told: Any = answer.output[0]
    assert [t.logprob for t in told.content[0].logprobs] == [-0.5]
    await ask(said, input="x", text={"format": {"type": "json_object"}})
    assert said[1].requests[1].response_format == {"type": "json_object"}


async def test_an_answer_that_was_cut_off_is_incomplete(said):
    said[1].chunks = text("one", finish="length")
    told = events((await said[0].http.post(PATH, json={"input": "x", "stream": True})).text)
    assert told[-1]["type"] == "response.incomplete"
    assert told[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert told[-1]["response"]["output"][0]["status"] == "incomplete"
    assert (await ask(said, input="x"))["status"] == "incomplete"


async def test_an_answer_without_a_word_is_an_empty_message(said):
    said[1].chunks = [ChatChunk(finish_reason="stop", usage=Usage(1))]
    (item,) = (await ask(said, input="x"))["output"]
    assert (item["type"], item["content"][0]["text"]) == ("message", "")


async def test_errors_in_the_middle_fail_the_response(said, monkeypatch):
    async def broken(request: Any) -> Any:
        yield ChatChunk("one")
        raise ModelError("it died", fix="try again")

    monkeypatch.setattr(said[1], "stream", broken)
    stream = await client(said[0]).responses.create(model="says", input="x", stream=True)
    last: Any = [event async for event in stream][-1]
    assert (last.type, last.response.status) == ("response.failed", "failed")
    assert (last.response.error.code, last.response.error.message) == ("server_error", "it died (try again)")
    assert last.response.output[0].content[0].text == "one"
    await ask(said, 502, input="x")


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({}, "missing_required_parameter", "input"),
    ({"input": []}, "invalid_value", "input"),
    ({"input": "x", "previous_response_id": "resp_1"}, "unsupported_parameter", "previous_response_id"),
    ({"input": "x", "conversation": "conv_1"}, "unsupported_parameter", "conversation"),
    ({"input": "x", "prompt": {"id": "pmpt_1"}}, "unsupported_parameter", "prompt"),
    ({"input": "x", "background": True, "store": False}, "invalid_value", "store"),
    ({"input": "x", "unheard_of": 1}, "unknown_parameter", "unheard_of"),
    ({"input": "x", "tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools[0]"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "invalid_value", "input[0]"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "invalid_value",
        "input[0]",
    ),
    (
        {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"}]},
        "invalid_value",
        "input[0]",
    ),
    ({"input": [{"type": "reasoning"}]}, "invalid_value", "input"),
    ({"input": ["x"]}, "invalid_value", "input[0]"),
]


async def test_what_cannot_be_done_is_refused(said):
    for fields, code, param in REFUSED:
        error = (await ask(said, 400, **fields))["error"]
        assert (error["code"], error["param"]) == (code, param), fields
    assert not said[1].requests


async def test_nothing_is_kept(said):
    api = client(said[0])
    made = await api.responses.create(model="says", input="x")
    with pytest.raises(openai.NotFoundError) as missing:
        await api.responses.retrieve(made.id)
    assert missing.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError):
        await api.responses.delete(made.id)
