"""Graphs asked like models: inputs from messages, progress before the answer, and a run behind it."""

import asyncio
from typing import Any

import pytest

from manta.graph import Graph, parse_graph
from manta.messages import ChatMessage
from serve_app.gateway.errors import BadField
from serve_app.gateway.openai.graph_inputs import graph_input, output_text
from tests.gateway.openai_support import ADD, HELLO, client, events
from tests.gateway.platform import Held, Local, Visitor, all_cancelled
from tests.waiting import eventually

CHAT = "/v1/chat/completions"
TALK = (ChatMessage("system", "s"), ChatMessage("user", "first"), ChatMessage("assistant", "a"))
ASKED = (*TALK, ChatMessage("user", "last"))


def graph(schema: dict[str, Any], **fields: Any) -> Graph:
    return parse_graph({"name": "g", "steps": [{"id": "a", "agent": "a"}], "input_schema": schema, **fields})


def schema(*names: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {} for name in names}}


MESSAGES = [{"role": m.role, "content": m.content} for m in ASKED]


@pytest.mark.parametrize(
    ("taking", "chat", "given", "found"),
    [
        (schema("question", "collection"), False, {}, {"question": "last"}),
        (schema("question"), False, {"collection": "c"}, {"question": "last", "collection": "c"}),
        (schema("question"), False, {"question": "mine"}, {"question": "mine"}),
        (schema("question", "messages"), True, {}, {"messages": MESSAGES}),
        (schema("messages"), False, {}, {"messages": MESSAGES}),
        ({"type": "object", "required": ["question"]}, False, {}, {"question": "last"}),
        ({}, False, {}, {"messages": MESSAGES, "question": "last"}),
        (schema("texts"), False, {"texts": []}, {"texts": []}),
    ],
)
def test_the_schema_decides_what_the_messages_become(taking, chat, given, found):
    assert graph_input(graph(taking, chat=chat), ASKED, given) == found


def test_a_graph_that_takes_neither_says_what_it_takes():
    with pytest.raises(BadField, match="texts") as refused:
        graph_input(graph(schema("texts")), ASKED, {})
    assert refused.value.param == "manta.input"
    with pytest.raises(BadField, match="no message of the user's"):
        graph_input(graph(schema("question")), TALK[:1], {})


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("plain", "plain"),
        ({"report": {}, "markdown": "# It"}, "# It"),
        ({"answer": "so", "draft": "x"}, "so"),
        ({"messages": [{"role": "assistant", "content": "hi"}], "collection": "c"}, "hi"),
        ({"count": 2}, '{\n  "count": 2\n}'),
        (None, "null"),
    ],
)
def test_the_text_is_what_a_person_would_read(output, told):
    assert output_text(output) == told


async def test_graphs_are_listed(local: Local):
    names = {model["id"] for model in (await local.json("GET", "/v1/models"))["data"]}
    assert {"sleeper", "manta/echo", "manta/research_report", "manta/chat"} <= names
    assert (await local.json("GET", "/v1/models/manta/echo"))["owned_by"] == "manta"
    assert (await local.json("GET", "/v1/models/manta/none", 404))["error"]["code"] == "model_not_found"


async def test_an_answer_is_a_runs_output_with_its_id_and_usage(local: Local):
    api = client(local)
    raw = await api.chat.completions.with_raw_response.create(
        model="manta/chat", messages=HELLO, metadata={"who": "me"}, extra_body={"manta": {"priority": 3}}
    )
    answer = raw.parse()
    assert answer.choices[0].message.content == "you said hello, after 0 messages"
    assert "reply: done" in answer.choices[0].message.reasoning_content  # type: ignore[attr-defined]
    run = raw.headers["Manta-Run-Id"]
    assert answer.id == f"chatcmpl-{run}"
    told = await local.json("GET", f"/runs/{run}")
    assert (told["metadata"], told["priority"], told["state"]) == ({"who": "me"}, 3, "success")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == told["usage"]["output_tokens"]


async def test_inputs_go_beside_the_messages(local: Local):
    api = client(local)
    answer = await api.chat.completions.create(
        model="manta/echo", messages=HELLO, extra_body={"manta": {"input": {"depth": 2, "messages": []}}}
    )
    assert (
        answer.choices[0].message.content == '{\n  "messages": [],\n  "question": "hello",\n  "depth": 2\n}'
    )


@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
async def test_progress_comes_before_the_last_step_ends(local: Local, path: str):
    body = {
        "model": "manta/hold",
        "messages": HELLO,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if path != CHAT:
        body = {"model": "manta/hold", "input": "hello", "stream": True}
    visitor = Visitor(local.api, path, body)
    seen = await visitor.see("work: started")
    assert "released" not in seen
    local.release.set()
    await visitor.see("released")
    rest = await visitor.see("[DONE]" if path == CHAT else "response.completed")
    assert events(rest) or path != CHAT


async def test_a_response_of_a_graph_has_its_progress_as_reasoning(local: Local):
    answer: Any = await client(local).responses.create(model="manta/chat", input="hello")
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output_text == "you said hello, after 0 messages"
    run = answer.id.removeprefix("resp_")
    assert (await local.json("GET", f"/runs/{run}"))["state"] == "success"


# Who only waits is told of a client's leaving by the server, which ends the request's task.
@pytest.mark.parametrize(("way", "stream"), [("leave", True), ("be_cut", True), ("be_cut", False)])
async def test_a_run_is_cancelled_when_its_client_leaves(local: Local, way: str, stream: bool):
    visitor = Visitor(local.api, CHAT, {"model": "manta/hold", "messages": HELLO, "stream": stream})
    if stream:
        await visitor.see("work: started")

    async def states() -> list[str]:
        return [run["state"] for run in await local.json("POST", "/runs/search", json={})]

    async def running() -> bool:
        return await states() == ["running"]

    async def stopped() -> bool:
        return await states() == ["interrupted"]

    await eventually(running, "the run being at work")
    await getattr(visitor, way)()
    await eventually(stopped, "the run being cancelled")


async def test_leaving_while_the_run_is_being_sent_cancels_it_as_well(local: Local, held: Held):
    visitor = Visitor(local.api, CHAT, {"model": "manta/hold", "messages": HELLO})
    async with asyncio.timeout(30):
        await held.sent.wait()
    await visitor.be_cut()
    held.go.set()
    await eventually(lambda: all_cancelled(local), "the run being cancelled")


async def test_failures_are_told_with_what_they_are(local: Local):
    body = {"model": "manta/fail", "messages": HELLO}
    error = (await local.json("POST", CHAT, 404, json=body))["error"]
    assert (error["message"], error["code"]) == ("nothing there (look elsewhere)", "not_found")
    text = (await local.http.post(CHAT, json={**body, "stream": True})).text
    assert events(text)[-1]["error"]["code"] == "not_found"
    assert "[DONE]" not in text


async def test_a_run_that_waits_for_a_person_says_so_and_goes_on_waiting(local: Local):
    body = {"model": "manta/ask", "messages": HELLO, "manta": {"input": {"text": "t"}}}
    response = await local.http.post(CHAT, json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "run_waiting")
    (waiting,) = await local.json("GET", "/approvals")
    assert waiting["run_id"] in response.json()["error"]["message"]
    await local.json("POST", f"/runs/{waiting['run_id']}/decisions", json={"action": "approve"})
    done = await local.json("GET", f"/runs/{waiting['run_id']}/wait")
    assert done["values"] == {"output": "t"}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model": "manta/ask"}, "manta.input"),
    ({"model": "manta/ask", "manta": {"input": {"txt": 1}}}, "manta.input"),
    ({"n": 2}, "n"),
    ({"tools": [ADD]}, "tools"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"logprobs": True}, "logprobs"),
    ({"manta": {"inputs": {}}}, "manta.inputs"),
]


async def test_what_a_graph_does_not_take_is_refused_and_starts_no_run(local: Local):
    for fields, param in REFUSED:
        body = {"model": "manta/echo", "messages": HELLO, **fields}
        assert (await local.json("POST", CHAT, 400, json=body))["error"]["param"] == param, fields
    assert await local.json("POST", "/runs/search", json={}) == []


async def test_without_the_coordinator_models_still_answer(local: Local):
    local.coordinator.away.add("graphs")
    await local.json("GET", "/v1/models", 503)
    await local.json("POST", CHAT, json={"messages": HELLO, "max_tokens": 1})
