"""A thread over server-sent events and WebSockets, and commands to it, with LangGraph's own client beside ours."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from langchain_core.language_models.chat_model_stream import AsyncChatModelStream
from langgraph_sdk.stream.decoders import DataDecoder, MessagesDecoder
from langgraph_sdk.stream.transport import (
    AsyncProtocolTransport,
    ProtocolSseTransport,
    ProtocolWebSocketTransport,
)
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from manta.errors import Unavailable
from manta.events import Event
from manta.ids import RunId, StepKey
from tests.gateway.platform import Local, Visitor
from tests.gateway.protocol_spec import SPEC, check_named
from tests.gateway.serving import served
from tests.waiting import eventually

HI = {"messages": [{"role": "user", "content": "hi"}]}


async def new_thread(local: Local) -> str:
    return str((await local.json("POST", "/threads", json={}))["thread_id"])


async def command(local: Local, thread: str, method: str, **params: Any) -> Any:
    body = {"id": 1, "method": method, "params": params}
    answer = await local.json("POST", f"/threads/{thread}/commands", json=body)
    if SPEC.exists():
        check_named("StreamingCommandResponse", answer)
    return answer["result"] if answer["type"] == "success" else answer["error"]


async def chatted(local: Local, thread: str, *texts: str) -> list[str]:
    runs = []
    for text in texts:
        given = {"messages": [{"role": "user", "content": text}]}
        runs.append((await command(local, thread, "run.start", assistant_id="chat", input=given))["run_id"])
        await local.json("GET", f"/runs/{runs[-1]}/wait")
    return runs


async def read(local: Local, thread: str, until: str, **request: Any) -> list[dict[str, Any]]:
    """Events of the thread's stream until one holds the text `until`."""
    visitor = Visitor(local.api, f"/threads/{thread}/stream", request)
    text = await visitor.see(until)
    text += "" if text.endswith("\n\n") else await visitor.see("\n\n")
    await visitor.leave()
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


async def test_a_stream_replays_all_runs_behind_a_place_and_goes_on(local: Local):
    thread = await new_thread(local)
    runs = await chatted(local, thread, "one", "two")
    whole = await read(
        local,
        thread,
        f'"completed", "graph_name": "chat", "run_id": "{runs[1]}"',
        channels=["lifecycle"],
        since=0,
    )
    assert [(e["params"]["data"]["run_id"], e["params"]["data"]["event"]) for e in whole] == [
        (run, state) for run in runs for state in ("started", "completed")
    ]
    seqs = [event["seq"] for event in whole]
    for place in range(1, 4):
        rest = await read(local, thread, f'"seq": {seqs[-1]}', channels=["lifecycle"], since=seqs[place - 1])
        assert [event["seq"] for event in rest] == seqs[place:]


async def test_a_stream_without_a_place_begins_with_what_goes_on(local: Local):
    thread = await new_thread(local)
    await chatted(local, thread, "one")
    visitor = Visitor(local.api, f"/threads/{thread}/stream", {"channels": ["lifecycle"]})
    held = (await command(local, thread, "run.start", assistant_id="hold", input={}))["run_id"]
    assert held in await visitor.see("started")
    local.release.set()
    text = await visitor.see("completed")
    assert "chat" not in text
    again = (await command(local, thread, "run.start", assistant_id="echo", input={}))["run_id"]
    assert again in await visitor.see("completed")
    await visitor.leave()


async def test_channels_of_a_run_with_steps_below_steps(local: Local):
    thread = await new_thread(local)
    await command(local, thread, "run.start", assistant_id="nested", input={"items": [1, 2]})
    channels = ["updates", "tasks", "custom:step_done", "lifecycle"]
    events = await read(local, thread, '"event": "completed"', channels=channels, since=0)
    updates = {
        (tuple(e["params"]["namespace"]), e["params"]["data"]["values"]["output"])
        for e in events
        if e["method"] == "updates"
    }
    assert updates == {(("angles[0]",), 1), (("angles[1]",), 2)}
    assert {e["params"]["data"]["name"] for e in events if e["method"] == "custom"} == {"step_done"}
    one = await read(
        local, thread, '"step_done"', channels=["tasks"], since=0, namespaces=[["angles[1]"]], depth=0
    )
    assert {tuple(e["params"]["namespace"]) for e in one} == {("angles[1]",)}


async def test_tokens_are_messages_while_the_step_runs(local: Local):
    thread = await new_thread(local)
    run = (await command(local, thread, "run.start", assistant_id="hold", input={}))["run_id"]
    await eventually(lambda: local.runtime.count("work"), "the step being begun")
    visitor = Visitor(local.api, f"/threads/{thread}/stream", {"channels": ["messages", "lifecycle"]})
    await visitor.see("started")
    local.service.pass_on([Event(RunId(run), 0, "token", 1.0, StepKey("work"), {"text": "Hello"})])
    assert '"text": "Hello"' in await visitor.see("text-delta")
    local.release.set()
    assert "content-block-finish" in await visitor.see("completed")
    await visitor.leave()


async def test_a_stream_of_a_platform_that_goes_away_says_so_last(local: Local):
    thread = await new_thread(local)
    await command(local, thread, "run.start", assistant_id="hold", input={})
    visitor = Visitor(local.api, f"/threads/{thread}/stream", {"channels": ["lifecycle"]})
    await visitor.see("started")
    local.coordinator.away |= {"watch", "search"}
    local.release.set()
    assert '"type": "error", "id": null' in await visitor.see("event: error")


async def test_the_first_values_are_the_thread_as_it_is(local: Local):
    thread = await new_thread(local)
    await chatted(local, thread, "one")
    (first,) = await read(local, thread, "data: ", channels=["values"])
    assert [m["content"] for m in first["params"]["data"]["messages"]] == [
        "one",
        "you said one, after 0 messages",
    ]
    events = await read(local, thread, '"source": "loop"', channels=["values", "checkpoints"], since=0)
    assert [event["method"] for event in events] == ["values", "values", "checkpoints"]


async def test_run_start_makes_the_thread_and_answers_what_waits(local: Local):
    thread = str(uuid.uuid4())
    run = (await command(local, thread, "run.start", assistantId="ask", input={"text": "hi"}))["run_id"]
    await local.json("GET", f"/runs/{run}/wait")
    assert (await local.json("GET", f"/threads/{thread}"))["status"] == "interrupted"
    assert (
        await command(local, thread, "run.start", assistant_id="ask", input={"text": "x"})
        == "invalid_argument"
    )
    answered = await command(
        local, thread, "run.start", assistant_id="ask", input={"action": "edit", "value": "ho"}
    )
    assert answered == {"run_id": run}
    assert (await local.json("GET", f"/runs/{run}/wait"))["values"] == {"output": "ho"}


async def test_what_waits_is_answered_by_its_interrupt(local: Local):
    thread = await new_thread(local)
    run = (await command(local, thread, "run.start", assistant_id="ask", input={"text": "hi"}))["run_id"]
    (asked,) = await read(local, thread, "input.requested", channels=["input"])
    data = asked["params"]["data"]
    assert data["payload"]["question"] == "Send it?"
    for wrong in ("x", f"{run}:send", f"{uuid.uuid4()}:check", 7, None):
        assert (
            await command(local, thread, "input.respond", interrupt_id=wrong, response=True)
            == "no_such_interrupt"
        )
    other = await new_thread(local)
    name = data["interrupt_id"]
    assert (
        await command(local, other, "input.respond", interrupt_id=name, response=True) == "no_such_interrupt"
    )
    for odd in ("yes", 1, None, {"action": "praise"}, []):
        assert (
            await command(local, thread, "input.respond", interrupt_id=name, response=odd)
            == "invalid_argument"
        )
    entry = {"namespace": [], "interruptId": name, "response": True}
    assert await command(local, thread, "input.respond", responses=[entry]) == {"run_id": run}
    assert (await local.json("GET", f"/runs/{run}/wait"))["run"]["status"] == "success"


async def test_states_are_got_listed_and_forked(local: Local):
    thread = await new_thread(local)
    assert await command(local, thread, "state.get", namespace=[]) == {"values": {}}
    await chatted(local, thread, "one", "two")
    state = await command(local, thread, "state.get", keys=["turns"])
    assert state["values"] == {"turns": 1}
    assert len((await command(local, thread, "state.get"))["values"]["messages"]) == 4
    assert await command(local, thread, "state.get", namespace=["sub"]) == "no_such_namespace"
    listed = (await command(local, thread, "state.listCheckpoints", limit=5))["checkpoints"]
    assert (listed[0]["id"], len(listed)) == (state["checkpoint"]["id"], 2)
    assert listed[0]["parent_id"] == listed[1]["id"]
    before = await command(local, thread, "state.listCheckpoints", before=listed[0]["id"])
    assert before == {"checkpoints": listed[1:]}
    assert await command(local, thread, "state.listCheckpoints", before="x") == "no_such_checkpoint"
    assert await command(local, thread, "state.listCheckpoints", limit=True) == "invalid_argument"
    forked = await command(local, thread, "state.fork", checkpointId=listed[1]["id"], input=HI)
    await local.json("GET", f"/runs/{forked['run_id']}/wait")
    branch = await local.json("GET", f"/threads/{forked['thread_id']}")
    assert [m["content"] for m in branch["messages"]][2:] == ["hi", "you said hi, after 2 messages"]
    assert (
        await command(local, thread, "state.fork", checkpoint_id=str(uuid.uuid4()), input=HI)
        == "no_such_checkpoint"
    )
    assert await command(local, thread, "state.fork", input=HI) == "invalid_argument"
    assert len(await local.json("POST", "/threads/search", json={})) == 2


async def test_the_tree_of_a_run(local: Local):
    thread = await new_thread(local)
    assert await command(local, thread, "agent.getTree") == "no_such_run"
    run = (await command(local, thread, "run.start", assistant_id="nested", input={"items": [1, 2]}))[
        "run_id"
    ]
    await local.json("GET", f"/runs/{run}/wait")
    tree = (await command(local, thread, "agent.getTree", run_id=run))["tree"]
    assert (tree["namespace"], tree["status"], tree["graph_name"]) == ([], "completed", "nested")
    assert [child["namespace"] for child in tree["children"]] == [["angles[0]"], ["angles[1]"]]
    assert tree["children"][1]["metadata"]["steps"] == {"angles[1]/draft": "completed"}


@pytest.mark.parametrize(
    ("method", "params", "error"),
    [
        ("fly", {}, "unknown_command"),
        ("input.inject", {"namespace": [], "message": {}}, "not_supported"),
        ("subscription.subscribe", {"channels": ["values"]}, "not_supported"),
        ("run.start", {}, "invalid_argument"),
        ("run.start", {"assistant_id": "none"}, "invalid_argument"),
        ("run.start", {"assistant_id": "ask", "input": {}}, "invalid_argument"),
        ("run.start", {"assistant_id": 7}, "invalid_argument"),
        ("input.respond", {"responses": ["x"]}, "invalid_argument"),
    ],
)
async def test_what_cannot_be_done_is_answered_by_the_protocols_error(
    local: Local, method: str, params: dict[str, Any], error: str
):
    assert await command(local, await new_thread(local), method, **params) == error


@pytest.fixture
async def url(local: Local) -> AsyncIterator[str]:
    async with served(local) as address:
        yield address


@pytest.mark.parametrize("kind", [ProtocolSseTransport, ProtocolWebSocketTransport])
async def test_langgraphs_client_follows_a_run(local: Local, url: str, kind: Any):
    thread = await new_thread(local)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        transport: AsyncProtocolTransport = kind(
            client=http, thread_id=thread, stream_path=f"/threads/{thread}/stream"
        )
        start = {"assistant_id": "hold", "input": {}}
        answer = await transport.send_command({"id": 1, "method": "run.start", "params": start})
        assert answer is not None
        await eventually(lambda: local.runtime.count("work"), "the step being begun")
        handle = transport.open_event_stream({"channels": ["values", "messages", "lifecycle"], "since": 0})
        await handle.ready
        messages = MessagesDecoder([], lambda **about: AsyncChatModelStream(**about))
        values = DataDecoder("values")
        seen: list[Any] = []
        streams: list[Any] = []
        async with asyncio.timeout(20):
            async for event in handle.events:
                if event.get("method") == "lifecycle":
                    seen.append(event["params"]["data"]["event"])
                if seen == ["started"] and not local.release.is_set():
                    token = Event(
                        RunId(answer["result"]["run_id"]), 0, "token", 1.0, StepKey("work"), {"text": "Hi"}
                    )
                    local.service.pass_on([token])
                    local.release.set()
                streams += messages.feed(event)
                seen += list(values.feed(event))
                if seen[-1:] == ["completed"]:
                    break
        await transport.close()
    assert seen == ["started", {"output": "released"}, "completed"]
    assert [str(await stream.text) for stream in streams] == ["Hi"]


async def say(socket: ClientConnection, number: int, method: str, **params: Any) -> Any:
    """Send a command; its answer, past the events that come before it."""
    await socket.send(json.dumps({"id": number, "method": method, "params": params}))
    async with asyncio.timeout(20):
        while True:
            answer = json.loads(await socket.recv())
            if answer.get("id") == number:
                if SPEC.exists():
                    check_named("StreamingCommandResponse", answer)
                return answer["result"] if answer["type"] == "success" else answer["error"]


async def events_until(socket: ClientConnection, state: str) -> list[Any]:
    seen = []
    async with asyncio.timeout(20):
        while True:
            event = json.loads(await socket.recv())
            if event["type"] != "event":
                continue
            seen.append(event)
            if event["params"]["data"].get("event") == state:
                return seen


async def test_a_socket_takes_commands_and_tells_of_subscriptions(local: Local, url: str):
    thread = await new_thread(local)
    async with connect(f"{url.replace('http', 'ws')}/threads/{thread}/stream", proxy=None) as socket:
        subscribed = await say(socket, 1, "subscription.subscribe", channels=["lifecycle"])
        run = (await say(socket, 2, "run.start", assistant_id="echo", input={}))["run_id"]
        told = await events_until(socket, "completed")
        assert [event["params"]["data"]["run_id"] for event in told] == [run, run]
        name = subscribed["subscription_id"]
        await say(
            socket,
            3,
            "subscription.reconnect",
            run_id=run,
            last_event_id=told[0]["eventId"],
            subscriptions=[name],
        )
        assert [e["seq"] for e in await events_until(socket, "completed")] == [told[1]["seq"]]
        assert await say(socket, 4, "subscription.reconnect", run_id=run, subscriptions=["gone"]) == {
            "restored": False
        }
        assert await say(socket, 5, "subscription.unsubscribe", subscription_id=name) == {}
        assert (
            await say(socket, 6, "subscription.unsubscribe", subscription_id=name) == "no_such_subscription"
        )
        assert await say(socket, 7, "subscription.subscribe", channels=[]) == "invalid_argument"
        assert (
            await say(socket, 8, "subscription.subscribe", channels=["values"], since=1 << 50)
            == "invalid_argument"
        )
        assert await say(socket, 9, "fly") == "unknown_command"
        for text in (
            "{",
            "[]",
            "1",
            '{"method": "state.get"}',
            '{"id": -1, "method": "x"}',
            '{"id": NaN}',
            "\0",
        ):
            await socket.send(text)
            answer = json.loads(await socket.recv())
            assert (answer["type"], answer["id"], answer["error"]) == ("error", None, "invalid_argument")
        await socket.send(b"\xff")
        assert json.loads(await socket.recv())["error"] == "invalid_argument"
        assert await say(socket, 10, "state.get") != "unknown_error"


async def test_a_socket_to_nothing_is_refused(local: Local, url: str):
    for thread in (str(uuid.uuid4()), "x", "%00"):
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"{url.replace('http', 'ws')}/threads/{thread}/stream", proxy=None):
                pass
        response = refused.value.response
        assert response.status_code == 404
        assert json.loads(response.body or b"")["code"] == "not_found"


async def test_a_socket_of_another_site_is_refused(local: Local, url: str):
    address = f"{url.replace('http', 'ws')}/threads/{await new_thread(local)}/stream"
    with pytest.raises(InvalidStatus) as refused:
        async with connect(address, origin="http://evil.example", proxy=None):  # type: ignore[arg-type]
            pass
    assert refused.value.response.status_code == 403


async def test_a_socket_is_closed_with_the_status_when_its_stream_breaks(local: Local, url: str):
    thread = await new_thread(local)
    async with connect(f"{url.replace('http', 'ws')}/threads/{thread}/stream", proxy=None) as socket:
        await say(socket, 1, "subscription.subscribe", channels=["lifecycle"])
        local.coordinator.away |= {"search"}
        local.coordinator.trouble = Unavailable("it restarts")
        assert json.loads(await socket.recv())["error"] == "unknown_error"
        with pytest.raises(ConnectionClosedError) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4503


async def test_subscriptions_of_a_socket_are_bounded_and_end_with_it(local: Local, url: str):
    thread = await new_thread(local)
    before = len(asyncio.all_tasks())
    async with connect(f"{url.replace('http', 'ws')}/threads/{thread}/stream", proxy=None) as socket:
        answers = [await say(socket, n, "subscription.subscribe", channels=["values"]) for n in range(33)]
        assert answers[-1] == "invalid_argument"
        assert "invalid_argument" not in answers[:-1]
    await eventually(lambda: len(asyncio.all_tasks()) <= before + 2, "the pumps having ended")
