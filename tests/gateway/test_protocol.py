"""Every route of the Agent Protocol, asked as its document says and answered in its schemas."""

import asyncio
import json
import uuid
from typing import Any

import jsonschema
import pytest

from tests.gateway.platform import Local, Visitor
from tests.gateway.protocol_spec import check, check_named, needs_spec, operation, operations
from tests.waiting import eventually

pytestmark = needs_spec

STAMP = "2026-01-02T03:04:05Z"
FILLER = {
    "run_id": str(uuid.uuid4()),
    "created_at": STAMP,
    "updated_at": STAMP,
    "status": "pending",
    "metadata": {},
}
"""The document asks for these in the body of a new run, although the service makes them."""


class Asked:
    """Sends requests that the document allows, holds answers against it, and knows what was asked."""

    def __init__(self, local: Local) -> None:
        self.local = local
        self.seen: set[tuple[str, str]] = set()

    async def __call__(
        self, method: str, path: str, body: Any = None, *, status: int | None = None, **ids: str
    ) -> Any:
        told = operation(method, path)
        self.seen.add((method, path))
        request: dict[str, Any] = {}
        if "requestBody" in told:
            check(told["requestBody"]["content"]["application/json"]["schema"], body)
            request["json"] = body
        params = {name: value for name, value in ids.items() if f"{{{name}}}" not in path}
        where = path.format(**ids)
        response = await self.local.http.request(method, where, params=params, **request)
        wanted = str(status or next(s for s in told["responses"] if s.startswith("2")))
        assert str(response.status_code) == wanted, f"{method} {where}: {response.text}"
        schema = told["responses"][wanted].get("content", {}).get("application/json", {}).get("schema")
        if not schema:
            # No body, or server-sent events: of those that join a run the document says nothing.
            return response.text
        assert response.headers["content-type"] == "application/json"
        check(schema, response.json())
        return response.json()


@pytest.fixture
def ask(local: Local) -> Asked:
    return Asked(local)


def new_run(graph: str, run_input: Any, **more: Any) -> dict[str, Any]:
    return {**FILLER, "agent_id": graph, "input": run_input, **more}


async def test_every_operation_is_there_under_its_own_name(local: Local):
    ours = local.api.openapi()["paths"]
    for method, path in operations():
        told = operation(method, path)
        assert ours[path][method.lower()]["operationId"] == told["operationId"]


async def test_every_route_answers_in_its_schema(ask: Asked):
    await _agents(ask)
    await _runs(ask)
    await _threads(ask)
    await _streams(ask)
    await _items(ask)
    assert ask.seen == operations()


async def _agents(ask: Asked) -> None:
    found = await ask("POST", "/agents/search", {"name": "chat", "metadata": {}, "limit": 5, "offset": 0})
    assert [agent["agent_id"] for agent in found] == ["chat"]
    assert found[0]["capabilities"]["ap.io.messages"] is True
    agent = await ask("GET", "/agents/{agent_id}", agent_id="ask")
    assert agent["capabilities"] == {"ap.io.messages": False, "ap.io.streaming": True}
    schemas = await ask("GET", "/agents/{agent_id}/schemas", agent_id="ask")
    assert schemas["input_schema"]["required"] == ["text"]
    for path in ("/agents/{agent_id}", "/agents/{agent_id}/schemas"):
        await ask("GET", path, status=404, agent_id="none")


async def _runs(ask: Asked) -> None:
    run = await ask("POST", "/runs", new_run("echo", {"a": 1}, metadata={"team": "x"}))
    assert (run["agent_id"], run["input"], run["metadata"]) == ("echo", {"a": 1}, {"team": "x"})
    waited = await ask("GET", "/runs/{run_id}/wait", run_id=run["run_id"])
    assert (waited["run"]["status"], waited["values"]) == ("success", {"a": 1})
    assert (await ask("GET", "/runs/{run_id}", run_id=run["run_id"]))["status"] == "success"
    found = await ask(
        "POST", "/runs/search", {"metadata": {"team": "x"}, "status": "success", "agent_id": "echo"}
    )
    assert [r["run_id"] for r in found] == [run["run_id"]]
    message = {"role": "user", "content": [{"type": "text", "text": "hello"}]}
    body = {"agent_id": "chat", "messages": [message], "config": {"tags": ["a"], "recursion_limit": 5}}
    talked = await ask("POST", "/runs/wait", body)
    assert talked["values"] == {"turns": 1}
    assert [m["role"] for m in talked["messages"]] == ["assistant"]
    text = await ask("POST", "/runs/stream", new_run("echo", {}, stream_mode=["values", "updates"]))
    assert [line for line in text.splitlines() if line.startswith("event: ")] == [
        f"event: {name}" for name in ("metadata", "updates", "values", "end")
    ]
    assert "event: end" in await ask("GET", "/runs/{run_id}/stream", run_id=run["run_id"])
    await _endings(ask, run["run_id"])


async def _endings(ask: Asked, done: str) -> None:
    held = [(await ask("POST", "/runs", new_run("hold", {})))["run_id"] for _ in range(2)]
    await ask("POST", "/runs/{run_id}/cancel", run_id=held[0], wait="true")
    assert (await ask("GET", "/runs/{run_id}", run_id=held[0]))["status"] == "interrupted"
    await ask("POST", "/runs/{run_id}/cancel", run_id=held[1], action="rollback")
    await ask("GET", "/runs/{run_id}", status=404, run_id=held[1])
    await ask("DELETE", "/runs/{run_id}", run_id=done)
    for method, path in (
        ("GET", "/runs/{run_id}"),
        ("DELETE", "/runs/{run_id}"),
        ("GET", "/runs/{run_id}/wait"),
        ("GET", "/runs/{run_id}/stream"),
        ("POST", "/runs/{run_id}/cancel"),
    ):
        await ask(method, path, status=404, run_id=done)
    for path in ("/runs/wait", "/runs", "/runs/stream"):
        await ask("POST", path, new_run("none", {}), status=404)
        await ask("POST", path, new_run("ask", {}), status=422)
    failed = await ask("POST", "/runs/wait", {"agent_id": "fail"})
    assert (failed["run"]["status"], failed["values"]) == ("error", {})
    waiting = await ask("POST", "/runs/wait", {"agent_id": "ask", "input": {"text": "hi"}})
    assert (waiting["run"]["status"], waiting["run"]["reason"]) == ("interrupted", "waiting")


async def _threads(ask: Asked) -> None:
    name = str(uuid.uuid4())
    made = await ask("POST", "/threads", {"thread_id": name, "metadata": {"who": "me"}})
    assert (made["thread_id"], made["status"], made["values"]) == (name, "idle", {})
    await ask("POST", "/threads", {"thread_id": name}, status=409)
    again = await ask("POST", "/threads", {"thread_id": name, "if_exists": "do_nothing"})
    assert again["metadata"] == {"who": "me"}
    for text in ("one", "two"):
        message = {"role": "user", "content": text}
        body = new_run("chat", None, thread_id=name, messages=[message], on_completion="keep")
        run = await ask("POST", "/runs", body)
        assert run["thread_id"] == name
        await ask("GET", "/runs/{run_id}/wait", run_id=run["run_id"])
    thread = await ask("GET", "/threads/{thread_id}", thread_id=name)
    assert [m["content"] for m in thread["messages"]] == [
        "one", "you said one, after 0 messages", "two", "you said two, after 2 messages",
    ]  # fmt: skip
    assert thread["values"] == {"turns": 1}
    await _history(ask, name)
    missing = str(uuid.uuid4())
    await ask("POST", "/runs", new_run("chat", {"messages": []}, thread_id=missing), status=404)
    body = new_run("echo", {}, thread_id=missing, if_not_exists="create")
    assert (await ask("POST", "/runs", body))["thread_id"] == missing


async def _history(ask: Asked, name: str) -> None:
    states = await ask("GET", "/threads/{thread_id}/history", thread_id=name, limit="10")
    assert [len(state["messages"]) for state in states] == [4, 2]
    older = states[0]["checkpoint"]["checkpoint_id"]
    before = await ask("GET", "/threads/{thread_id}/history", thread_id=name, before=older)
    assert before == states[1:]
    copied = await ask("POST", "/threads/{thread_id}/copy", thread_id=name)
    assert (copied["thread_id"] != name, len(copied["messages"])) == (True, 4)
    patch = {
        "metadata": {"a": 1},
        "values": {"note": "x"},
        "messages": [{"role": "user", "content": "three"}],
    }
    patched = await ask("PATCH", "/threads/{thread_id}", patch, thread_id=name)
    assert (patched["metadata"], patched["values"]) == ({"who": "me", "a": 1}, {"turns": 1, "note": "x"})
    back = {"checkpoint": states[1]["checkpoint"]}
    assert len((await ask("PATCH", "/threads/{thread_id}", back, thread_id=name))["messages"]) == 2
    search = {"metadata": {"who": "me"}, "values": {"turns": 1}, "status": "idle", "limit": 10, "offset": 0}
    found = await ask("POST", "/threads/search", search)
    assert {thread["thread_id"] for thread in found} == {name, copied["thread_id"]}
    await ask("DELETE", "/threads/{thread_id}", thread_id=copied["thread_id"])
    for method, path, body in (
        ("GET", "/threads/{thread_id}", None),
        ("DELETE", "/threads/{thread_id}", None),
        ("GET", "/threads/{thread_id}/history", None),
        ("POST", "/threads/{thread_id}/copy", None),
        ("PATCH", "/threads/{thread_id}", {"metadata": {}}),
        ("POST", "/threads/{thread_id}/commands", {"id": 1, "method": "state.get"}),
        ("POST", "/threads/{thread_id}/stream", {"channels": ["values"]}),
        ("GET", "/threads/{thread_id}/stream", None),
    ):
        await ask(method, path, body, status=404, thread_id=copied["thread_id"])


async def _streams(ask: Asked) -> None:
    name = (await ask("POST", "/threads", {}))["thread_id"]
    params = {"assistant_id": "chat", "input": {"messages": [{"role": "user", "content": "hi"}]}}
    command = {"id": 7, "method": "run.start", "params": params}
    answer = await ask("POST", "/threads/{thread_id}/commands", command, thread_id=name)
    assert (answer["type"], answer["id"]) == ("success", 7)
    await ask("GET", "/runs/{run_id}/wait", run_id=answer["result"]["run_id"])
    odd = await ask("POST", "/threads/{thread_id}/commands", {"id": 8, "method": "odd"}, thread_id=name)
    assert (odd["type"], odd["error"]) == ("error", "unknown_command")
    request = {
        "channels": ["lifecycle", "values", "custom:step_done"],
        "since": 0,
        "depth": 3,
        "namespaces": [[]],
    }
    check(
        operation("POST", "/threads/{thread_id}/stream")["requestBody"]["content"]["application/json"][
            "schema"
        ],
        request,
    )
    visitor = Visitor(ask.local.api, f"/threads/{name}/stream", request)
    text = await visitor.see('"completed"')
    await visitor.leave()
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    for event in events:
        check_named("StreamingEvent", event)
    assert [event["method"] for event in events] == ["values", "lifecycle", "custom", "values", "lifecycle"]
    numbers = [event["seq"] for event in events if "seq" in event]
    assert numbers == sorted(set(numbers))
    plain = await ask.local.http.get(f"/threads/{name}/stream")
    assert (plain.status_code, plain.headers["content-type"]) == (426, "application/json")
    check_named("ErrorResponse", plain.json())


async def _items(ask: Asked) -> None:
    item = {"namespace": ["users", "me"], "key": "profile", "value": {"name": "M", "age": 3}}
    assert await ask("PUT", "/store/items", item) == ""
    response = await ask.local.http.get(
        "/store/items", params={"key": "profile", "namespace": ["users", "me"]}
    )
    check_named("Item", response.json())
    assert response.json()["value"] == item["value"]
    await ask("GET", "/store/items", status=404, key="none", namespace="users")
    await ask("GET", "/store/items", status=422)
    found = await ask("POST", "/store/items/search", {"namespace_prefix": ["users"], "filter": {"age": 3}})
    assert [i["key"] for i in found["items"]] == ["profile"]
    await ask(
        "POST", "/store/items/search", {"namespace_prefix": None, "filter": None, "limit": 1, "offset": 0}
    )
    listed = await ask("POST", "/store/namespaces", {"prefix": ["users"], "suffix": ["me"], "max_depth": 2})
    assert listed == [["users", "me"]]
    gone = {"namespace": ["users", "me"], "key": "profile"}
    await ask("DELETE", "/store/items", gone)
    await ask("DELETE", "/store/items", gone, status=404)


async def test_answers_that_do_not_fit_would_be_found():
    for value in ({"run_id": "x"}, {**FILLER, "status": "running"}):
        with pytest.raises(jsonschema.ValidationError):
            check_named("Run", value)


async def test_a_rollback_waits_for_the_run_to_stop(local: Local):
    run = (await local.json("POST", "/runs", json={"agent_id": "hold"}))["run_id"]
    await eventually(lambda: local.runtime.count("work"), "the step being begun")
    async with asyncio.timeout(20):
        await local.json("POST", f"/runs/{run}/cancel?action=rollback", 204)
    assert local.runtime.stopped == ["work"]
