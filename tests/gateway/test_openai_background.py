"""Background responses: kept from the first moment, read, stopped and deleted by their id, never another tenant's."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseErrorEvent

from agents.model_call import ask_model
from manta.errors import InvalidInput, ModelError
from manta.messages import ChatChunk, ChatMessage, ToolCall
from serve_app.gateway.hidden_graphs import RESPONSE_GRAPH
from tests.agents.step_support import StepBench
from tests.gateway.openai_support import USAGE, SaysChunks, client, events, text, token
from tests.gateway.platform import Local, Visitor
from tests.gateway.working import guarded_work, working
from tests.waiting import eventually

PATH = "/v1/responses"
ASKED: dict[str, Any] = {"model": "says", "input": "hello", "background": True}
ADD: dict[str, Any] = {"type": "function", "name": "add", "parameters": {"type": "object"}}


@pytest.fixture
async def said(tmp_path: Path) -> AsyncIterator[tuple[Local, SaysChunks]]:
    """A platform at work with the model `says`, and the model."""
    model = SaysChunks(*text("one ", "two"))
    async with working(tmp_path, {"says": model}) as local:
        yield local, model


@pytest.fixture
def local(said: tuple[Local, SaysChunks]) -> Local:
    return said[0]


async def ended(local: Local, response_id: str) -> dict[str, Any]:
    run = response_id.removeprefix("resp_")
    await local.json("GET", f"/runs/{run}/wait")
    return await local.json("GET", f"{PATH}/{response_id}")


async def test_it_is_polled_as_openais_client_does(said):
    local, model = said
    model.gate = asyncio.Event()
    api = client(local)
    made = await api.responses.create(**ASKED, instructions="be brief", metadata={"a": "b"}, temperature=0.5)
    assert made.status in ("queued", "in_progress")
    assert (made.output, made.background, made.metadata) == ([], True, {"a": "b"})

    async def at_work() -> bool:
        return (await api.responses.retrieve(made.id)).status == "in_progress" and bool(model.requests)

    await eventually(at_work, "the model being asked")
    model.gate.set()
    await ended(local, made.id)
    done = await api.responses.retrieve(made.id)
    assert (done.id, done.status, done.output_text, done.error) == (made.id, "completed", "one two", None)
    assert (done.created_at, done.instructions, done.temperature) == (made.created_at, "be brief", 0.5)
    assert done.usage is not None
    assert (done.usage.input_tokens, done.usage.output_tokens) == (3, 2)
    assert await api.responses.retrieve(made.id) == done
    (request,) = model.requests
    assert request.messages == (ChatMessage("system", "be brief"), ChatMessage("user", "hello"))
    assert (request.temperature, request.hints.run) == (0.5, made.id.removeprefix("resp_"))


async def test_reasoning_calls_and_logprobs_are_kept(said):
    local, model = said
    call = ToolCall("call_1", "add", {"a": 1})
    model.chunks = [
        ChatChunk(reasoning="hm"),
        token("I add", -0.5),
        ChatChunk(tool_calls=(call,), finish_reason="tool_calls", usage=USAGE),
    ]
    made = await local.json("POST", PATH, json={**ASKED, "tools": [ADD], "top_logprobs": 1})
    done = await ended(local, made["id"])
    assert [item["type"] for item in done["output"]] == ["reasoning", "message", "function_call"]
    assert done["output"][1]["content"][0]["logprobs"][0]["logprob"] == -0.5
    assert done["output"][2]["arguments"] == '{"a": 1}'
    assert model.requests[0].tools[0].name == "add"


async def test_an_answer_that_was_cut_off_is_incomplete(said):
    said[1].chunks = text("one", finish="length")
    made = await said[0].json("POST", PATH, json=ASKED)
    done = await ended(said[0], made["id"])
    assert (done["status"], done["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert done["completed_at"] is None


async def test_a_failure_is_the_responses(said, monkeypatch):
    async def broken(request: Any) -> Any:
        error = ModelError("it cannot", fix="ask another")
        error.retryable = False
        raise error
        yield

    monkeypatch.setattr(said[1], "stream", broken)
    made = await said[0].json("POST", PATH, json=ASKED)
    done = await ended(said[0], made["id"])
    assert (done["status"], done["output"]) == ("failed", [])
    assert done["error"] == {"code": "server_error", "message": "it cannot (ask another)"}
    told = events((await said[0].http.get(f"{PATH}/{made['id']}?stream=true")).text)
    assert told[-1]["type"] == "response.failed"


async def test_a_cancel_stops_the_model_and_may_be_repeated(said):
    local, model = said
    model.gate = asyncio.Event()
    api = client(local)
    made = await api.responses.create(**ASKED)
    await eventually(lambda: model.requests, "the model being asked")
    await api.responses.cancel(made.id)
    done = await ended(local, made.id)
    assert (done["status"], done["error"], done["output"]) == ("cancelled", None, [])
    assert model.cut_short == 1
    assert (await api.responses.cancel(made.id)).status == "cancelled"


async def test_a_cancel_after_the_end_changes_nothing(said):
    made = await said[0].json("POST", PATH, json=ASKED)
    done = await ended(said[0], made["id"])
    assert await said[0].json("POST", f"{PATH}/{made['id']}/cancel") == done


async def test_one_at_work_is_deleted_with_its_run(said):
    local, model = said
    model.gate = asyncio.Event()
    api = client(local)
    made = await api.responses.create(**ASKED)
    await eventually(lambda: model.requests, "the model being asked")
    assert (await local.json("DELETE", f"{PATH}/{made.id}"))["deleted"] is True
    assert model.cut_short == 1
    for call in (api.responses.retrieve, api.responses.cancel, api.responses.delete):
        with pytest.raises(openai.NotFoundError):
            await call(made.id)
    await local.json("GET", f"/runs/{made.id.removeprefix('resp_')}", 404)


async def test_its_run_is_found_by_its_graph(said):
    local, _ = said
    made = await local.json("POST", PATH, json=ASKED)
    (run,) = await local.json("POST", "/runs/search", json={"agent_id": RESPONSE_GRAPH})
    assert made["id"] == f"resp_{run['run_id']}"
    await ended(local, made["id"])
    # In no place of the pool that does everybody's steps.
    assert {task.agent for task in local.runtime.tasks} == {"background"}
    assert RESPONSE_GRAPH not in [graph["name"] for graph in await local.json("GET", "/graphs")]
    await local.json("GET", f"/v1/models/manta/{RESPONSE_GRAPH}", 404)
    await local.json("POST", PATH, 404, json={**ASKED, "model": f"manta/{RESPONSE_GRAPH}"})


async def test_a_repeated_request_is_one_response(said):
    headers = {"Idempotency-Key": "once"}
    ids = {(await said[0].json("POST", PATH, json=ASKED, headers=headers))["id"] for _ in range(2)}
    assert len(ids) == 1
    other = {**ASKED, "input": "another"}
    error = (await said[0].json("POST", PATH, 400, json=other, headers=headers))["error"]
    assert error["code"] == "idempotency_conflict"


async def test_a_graph_works_in_the_background(local: Local):
    api = client(local)
    made = await api.responses.create(model="manta/hold", input="hello", background=True, metadata={"a": "b"})
    assert (made.model, made.metadata) == ("manta/hold", {"a": "b"})
    run = made.id.removeprefix("resp_")
    assert (await local.json("GET", f"/runs/{run}"))["agent_id"] == "hold"
    local.release.set()
    await ended(local, made.id)
    done = await api.responses.retrieve(made.id)
    assert (done.status, done.output_text) == ("completed", "released")
    await local.json("POST", PATH, 400, json={**ASKED, "model": "manta/echo", "tools": [ADD]})


async def test_a_run_that_waits_for_a_person_is_in_progress(local: Local):
    body = {"model": "manta/ask", "input": "x", "background": True, "manta": {"input": {"text": "t"}}}
    made = await local.json("POST", PATH, json=body)
    assert (await ended(local, made["id"]))["status"] == "in_progress"
    told = events((await local.http.get(f"{PATH}/{made['id']}?stream=true")).text)
    assert (told[-1]["type"], told[-1]["code"]) == ("error", "run_waiting")
    # Behind it the stream is taken up again where it broke off.
    assert told[-1]["sequence_number"] == told[-2]["sequence_number"] == 1
    ResponseErrorEvent.model_validate(told[-1], strict=True)


async def test_a_stream_tells_all_at_the_end_and_is_taken_up_behind_a_number(said):
    local, model = said
    model.gate = asyncio.Event()
    visitor = Visitor(local.api, PATH, {**ASKED, "stream": True})
    begun = events(await visitor.see("response.in_progress"))
    assert [event["sequence_number"] for event in begun] == [0, 1]
    await visitor.leave()
    response_id = begun[0]["response"]["id"]
    model.gate.set()
    done = await ended(local, response_id)
    whole = events((await local.http.get(f"{PATH}/{response_id}?stream=true")).text)
    assert [event["sequence_number"] for event in whole] == list(range(len(whole)))
    assert whole[-1]["response"] == done
    assert "".join(event.get("delta", "") for event in whole) == "one two"
    rest = await local.http.get(f"{PATH}/{response_id}?stream=true&starting_after=3")
    assert events(rest.text) == whole[4:]
    stream = await client(local).responses.retrieve(response_id, stream=True)
    assert [event.type async for event in stream] == [event["type"] for event in whole]


async def test_what_cannot_be_asked_is_refused_at_once_and_starts_no_run(said):
    local, _ = said
    for status, change in (
        (404, {"model": "none"}),
        (400, {"input": []}),
        (400, {"temperature": 9}),
        (400, {"tools": [{"type": "web_search"}]}),
        (400, {"unheard_of": 1}),
        (400, {"store": False}),
        (400, {"manta": {}}),
    ):
        await local.json("POST", PATH, status, json={**ASKED, **change})
    assert await local.json("POST", "/runs/search", json={}) == []


@pytest.mark.parametrize("wrong", ["resp_1", "resp_wait", "x", "resp_00000000-0000-4000-8000-000000000000"])
async def test_an_id_of_nothing_is_not_found(said, wrong: str):
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel")):
        error = (await said[0].json(method, f"{PATH}/{wrong}{path}", 404))["error"]
        assert error["type"] == "invalid_request_error"


async def test_any_other_run_is_no_response(local: Local):
    run = (await local.json("POST", "/runs/wait", json={"agent_id": "echo", "input": 1}))["run"]["run_id"]
    await local.json("GET", f"{PATH}/resp_{run}", 404)
    odd = {"agent_id": "echo", "input": 1, "metadata": {"openai_response": "mine"}}
    run = (await local.json("POST", "/runs/wait", json=odd))["run"]["run_id"]
    assert (await local.json("GET", f"{PATH}/resp_{run}"))["status"] == "completed"


async def test_anothers_response_is_not_found(tmp_path: Path):
    async with guarded_work(tmp_path, {"says": SaysChunks(*text("one"))}) as platform:
        mine, other = await platform.key("ann"), await platform.key("bob", tenant="rival")
        made = (await platform.ask(mine, "POST", PATH, json=ASKED)).json()
        for method, path in (("GET", ""), ("POST", "/cancel"), ("DELETE", "")):
            assert (await platform.ask(other, method, f"{PATH}/{made['id']}{path}")).status_code == 404
        assert (await platform.ask(mine, "GET", f"{PATH}/{made['id']}")).status_code == 200
        chat_only = await platform.key("cid", "chat")
        assert (await platform.ask(chat_only, "POST", PATH, json=ASKED)).status_code == 403


async def test_it_survives_its_coordinator(tmp_path: Path):
    model = SaysChunks(*text("one ", "two"), gate=asyncio.Event())
    async with working(tmp_path, {"says": model}) as local:
        made = await local.json("POST", PATH, json=ASKED)
        await eventually(lambda: model.requests, "the model being asked")
    model.gate = None
    async with working(tmp_path, {"says": model}) as local:
        assert (await ended(local, made["id"]))["status"] == "completed"
        assert len(model.requests) == 2


async def test_a_step_that_runs_again_does_not_ask_again(tmp_path: Path):
    model = SaysChunks(*text("one ", "two"))
    bench = StepBench(tmp_path, model, others={"says": model})
    request = {"messages": [{"role": "user", "content": "hello"}]}
    asked = [await ask_model(bench.context({}, {}, attempt), "says", request) for attempt in (1, 2)]
    assert asked[0] == asked[1]
    assert (asked[0]["text"], asked[0]["finish_reason"]) == ("one two", "stop")
    assert len(model.requests) == 1
    assert bench.tokens == ["one ", "two", "one two"]
    with pytest.raises(InvalidInput, match="no request"):
        await ask_model(bench.context({}, {}, 3), "says", {"messages": [{"role": "user"}]})
