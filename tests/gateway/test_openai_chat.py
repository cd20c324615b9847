"""Chat completions: fields that reach the model, answers in OpenAI's shapes, what is refused and how."""

import asyncio
import dataclasses
import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from manta.messages import CallHints, ChatChunk, Sampling, ToolCall, ToolSpec
from tests.gateway.openai_support import ADD, HELLO, SUB, USAGE, SaysChunks, client, events, text, token
from tests.gateway.platform import Local, Visitor

CHAT = "/v1/chat/completions"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
NAMED = {"name": "answer", "schema": SCHEMA, "strict": True}


async def ask(said: tuple[Local, SaysChunks], status: int = 200, **fields: Any) -> Any:
    return await said[0].json("POST", CHAT, status, json={"messages": HELLO, **fields})


async def test_every_field_of_sampling_reaches_the_model(said):
    fields = {
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": -3,
        "stop": ["a", "b"],
        "max_completion_tokens": 9,
        "presence_penalty": 1.5,
        "frequency_penalty": -1,
        "logit_bias": {"50": -100, "7": 2.5},
        "top_k": 40,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "stop_token_ids": [2],
        "ignore_eos": True,
        "parallel_tool_calls": False,
    }
    await ask(said, **fields)
    request = said[1].requests[0]
    assert (request.temperature, request.top_p, request.seed, request.stop) == (0.5, 0.9, -3, ("a", "b"))
    assert (request.max_tokens, request.parallel_tool_calls) == (9, False)
    assert request.sampling == Sampling(
        40, 0.1, 1.1, 1.5, -1, {"50": -100, "7": 2.5}, stop_token_ids=(2,), ignore_eos=True
    )


async def test_fields_that_change_no_answer_are_taken(said):
    hints = {
        "user": "me",
        "safety_identifier": "x",
        "store": True,
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "prompt_cache_key": "k",
        "reasoning_effort": "low",
        "verbosity": "low",
        "modalities": ["text"],
        "prediction": {"type": "content", "content": "x"},
        "top_k": -1,
    }
    await ask(said, **hints)
    await ask(said)
    # Whose call it is decides which version answers, and nothing of the answer.
    first, second = (dataclasses.replace(request, hints=CallHints()) for request in said[1].requests)
    assert first == second
    assert [request.hints.user for request in said[1].requests] == ["me", "local"]


FORMS: list[tuple[dict[str, Any], Any]] = [
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "json_object"}}, {"type": "json_object"}),
    (
        {"response_format": {"type": "json_schema", "json_schema": NAMED}},
        {"type": "json_schema", "json_schema": NAMED},
    ),
    ({"response_format": {"type": "regex", "regex": "a+"}}, {"type": "regex", "regex": "a+"}),
    ({"structured_outputs": {"regex": "a+"}}, {"type": "regex", "regex": "a+"}),
    ({"structured_outputs": {"choice": ["a", "b"]}}, {"type": "choice", "choice": ["a", "b"]}),
    ({"guided_grammar": "start: x"}, {"type": "grammar", "grammar": "start: x"}),
    (
        {"guided_json": json.dumps(SCHEMA)},
        {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}},
    ),
    ({"guided_choice": ["x"], "guided_regex": None}, {"type": "choice", "choice": ["x"]}),
]


async def test_forms(said):
    for fields, _ in FORMS:
        await ask(said, **fields)
    assert [request.response_format for request in said[1].requests] == [form for _, form in FORMS]


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"tempratur": 1}, "unknown_parameter", "tempratur"),
    ({"messages": []}, "invalid_value", "messages"),
    ({"temperature": "hot"}, "invalid_type", "temperature"),
    ({"n": 9}, "invalid_value", "n"),
    ({"stop": [""]}, "invalid_value", "stop[0]"),
    ({"functions": [{"name": "f"}]}, "unsupported_parameter", "functions"),
    ({"function_call": "auto"}, "unsupported_parameter", "function_call"),
    ({"audio": {"voice": "x"}}, "unsupported_parameter", "audio"),
    ({"web_search_options": {}}, "unsupported_parameter", "web_search_options"),
    ({"modalities": ["text", "audio"]}, "invalid_value", "modalities[1]"),
    ({"top_logprobs": 3}, "invalid_value", "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "invalid_value", "top_logprobs"),
    ({"logit_bias": {"x": 1}}, "invalid_value", "logit_bias"),
    ({"logit_bias": {"1": 101}}, "invalid_value", "logit_bias"),
    ({"metadata": {"a": 1}}, "invalid_type", "metadata.a"),
    ({"metadata": {str(i): "" for i in range(17)}}, "invalid_value", "metadata"),
    ({"response_format": {"type": "xml"}}, "invalid_value", "response_format"),
    ({"guided_regex": "a", "guided_choice": ["b"]}, "invalid_value", "response_format"),
    ({"structured_outputs": {"json": "[1]"}}, "invalid_value", "structured_outputs.json"),
    ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "unsupported_parameter", "tools[0]"),
    ({"tools": [ADD, ADD]}, "invalid_value", "tools[1]"),
    ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
    ({"manta": {"input": {}}}, "invalid_value", "manta"),
]


@pytest.mark.parametrize("stream", [False, True])
async def test_refusals_say_what_and_where(said, stream: bool):
    for fields, code, param in REFUSED:
        error = (await ask(said, 400, **fields, stream=stream))["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", code), fields
        assert error["param"].startswith(param), fields
    assert not said[1].requests


async def test_a_schema_has_to_be_one_and_to_have_a_name(said):
    bad: list[dict[str, Any]] = [
        {"name": "a b", "schema": SCHEMA},
        {"schema": SCHEMA},
        {"name": "a"},
        {"name": "a", "schema": {"type": "objekt"}},
    ]
    for schema in bad:
        error = (await ask(said, 400, response_format={"type": "json_schema", "json_schema": schema}))[
            "error"
        ]
        assert error["param"].startswith("response_format.json_schema"), schema


async def test_only_text_is_read(said):
    for kind in ("image_url", "input_audio", "file"):
        content = [{"type": "text", "text": "see"}, {"type": kind, kind: {}}]
        error = (await ask(said, 400, messages=[*HELLO, {"role": "user", "content": content}]))["error"]
        assert error["param"] == "messages[1]"
        assert "only text" in error["message"]


async def test_allowed_tools_are_those_that_the_model_is_told_of(said):
    choice = {"mode": "required", "tools": [{"type": "function", "function": {"name": "sub"}}]}
    await ask(said, tools=[ADD, SUB], tool_choice={"type": "allowed_tools", "allowed_tools": choice})
    request = said[1].requests[0]
    assert (request.tools, request.tool_choice) == ((ToolSpec("sub", "", {"type": "object"}),), "required")


async def test_an_answer_has_reasoning_logprobs_and_a_fingerprint(said):
    model = said[1]
    model.chunks = [
        ChatChunk(reasoning="hm "),
        ChatChunk(reasoning="so"),
        token("a", -0.5),
        token("é", -1),
        *text(),
    ]
    api = client(said[0])
    asked: dict[str, Any] = {"model": "says", "messages": HELLO, "logprobs": True, "top_logprobs": 2}
    whole = await api.chat.completions.create(**asked)
    (choice,) = whole.choices
    assert (choice.message.content, choice.message.reasoning_content) == ("aé", "hm so")  # type: ignore[attr-defined]
    assert whole.system_fingerprint
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert [(t.token, t.logprob, t.bytes) for t in choice.logprobs.content] == [
        ("a", -0.5, [97]),
        ("é", -1.0, [195, 169]),
    ]
    assert [(t.token, t.logprob) for t in choice.logprobs.content[0].top_logprobs] == [("a", -0.5), ("x", -3)]
    assert model.requests[0].logprobs == 2
    pieces = [piece async for piece in await api.chat.completions.create(**asked, stream=True)]
    deltas = [piece.choices[0].delta for piece in pieces]
    assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == "hm so"
    told = [p.choices[0].logprobs for p in pieces if p.choices[0].logprobs is not None]
    assert [t.content[0].token for t in told if t.content] == ["a", "é"]


async def test_without_logprobs_none_are_told(said):
    said[1].chunks = [token("a", -0.5), *text()]
    assert (await ask(said))["choices"][0]["logprobs"] is None
    assert said[1].requests[0].logprobs is None


async def test_several_answers(said):
    whole = await ask(said, n=3, seed=1)
    assert [(c["index"], c["message"]["content"]) for c in whole["choices"]] == [
        (i, "one two") for i in range(3)
    ]
    assert whole["usage"]["prompt_tokens"] == 3
    assert whole["usage"]["completion_tokens"] == 6
    assert [request.seed for request in said[1].requests] == [1, 2, 3]
    texts = {0: "", 1: ""}
    api = client(said[0])
    options: Any = {"include_usage": True}
    stream = await api.chat.completions.create(
        model="says", messages=HELLO, n=2, stream=True, stream_options=options
    )
    pieces = [piece async for piece in stream]
    for piece in pieces:
        for choice in piece.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == {0: "one two", 1: "one two"}
    assert [p.usage.completion_tokens for p in pieces if p.usage] == [4]


async def test_calls_are_streamed_as_a_name_and_then_arguments(said):
    calls = (ToolCall("call_1", "add", {"a": 1}), ToolCall("call_2", "sub", {}))
    said[1].chunks = [ChatChunk(tool_calls=calls), ChatChunk(finish_reason="tool_calls", usage=USAGE)]
    body = {"messages": HELLO, "tools": [ADD, SUB], "stream": True}
    told = events((await said[0].http.post(CHAT, json=body)).text)
    deltas = [piece["choices"][0]["delta"].get("tool_calls") for piece in told]
    assert [delta[0] for delta in deltas if delta] == [
        {"index": 0, "id": "call_1", "type": "function", "function": {"name": "add", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a": 1}'}},
        {"index": 1, "id": "call_2", "type": "function", "function": {"name": "sub", "arguments": ""}},
        {"index": 1, "function": {"arguments": "{}"}},
    ]
    assert told[-1]["choices"][0]["finish_reason"] == "tool_calls"
    message = (await ask(said, tools=[ADD, SUB]))["choices"][0]["message"]
    assert message["content"] is None
    assert [call["id"] for call in message["tool_calls"]] == ["call_1", "call_2"]


class Sum(BaseModel):
    a: int


async def test_openais_own_client_parses_and_gathers(said):
    api = client(said[0])
    said[1].chunks = text('{"a": ', "3}")
    parsed = await api.chat.completions.parse(model="says", messages=HELLO, response_format=Sum)
    assert parsed.choices[0].message.parsed == Sum(a=3)
    assert said[1].requests[0].response_format["json_schema"]["strict"] is True
    calls = (ToolCall("call_1", "add", {"a": 1}),)
    said[1].chunks = [ChatChunk(tool_calls=calls), ChatChunk(finish_reason="tool_calls", usage=USAGE)]
    tool: Any = openai.pydantic_function_tool(Sum, name="add")
    async with api.chat.completions.stream(model="says", messages=HELLO, tools=[tool]) as stream:
        final = await stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == Sum(a=1)


async def test_the_clients_errors_are_openais(said):
    api = client(said[0])
    with pytest.raises(openai.BadRequestError) as refused:
        await api.chat.completions.create(model="says", messages=HELLO, extra_body={"unheard_of": 1})
    assert (refused.value.code, refused.value.param) == ("unknown_parameter", "unheard_of")
    with pytest.raises(openai.NotFoundError) as missing:
        await api.chat.completions.create(model="none", messages=HELLO)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")


async def test_an_answer_that_stops_without_an_end_is_an_error(said):
    said[1].chunks = [ChatChunk("one")]
    await ask(said, 502)
    said[1].chunks = []
    await ask(said, 502, stream=True)


async def test_all_answers_stop_when_the_listener_leaves(said):
    local, model = said
    model.gate = asyncio.Event()
    visitor = Visitor(local.api, CHAT, {"messages": HELLO, "stream": True, "n": 2})
    await visitor.see("one")
    await visitor.leave()
    assert model.cut_short == 2
