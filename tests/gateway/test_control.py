"""What people do with runs: answers to what waits, forks, resumed runs, feedback, the record of calls."""

import uuid
from typing import Any

import pytest

from manta.messages import CallIntent, CallOutcome, CallScope, Usage
from serve_app.gateway.deps import Caller, caller_of
from tests.gateway.platform import Local
from tests.waiting import eventually

TEXT = {"text": "Dear all"}


async def waiting(local: Local, **more: Any) -> str:
    """A run of `ask` that waits for its answer."""
    answer = await local.json("POST", "/runs/wait", json={"agent_id": "ask", "input": TEXT, **more})
    assert answer["run"]["reason"] == "waiting"
    return str(answer["run"]["run_id"])


async def finished(local: Local, run: str) -> Any:
    return await local.json("GET", f"/runs/{run}/wait")


async def test_a_waiting_run_says_what_it_waits_for(local: Local):
    run = await waiting(local)
    shown = await local.json("GET", f"/runs/{run}")
    assert (shown["status"], shown["state"], shown["reason"]) == ("interrupted", "waiting", "waiting")
    (asked,) = shown["waiting"]
    assert asked.pop("since") > 0
    assert asked == {
        "step": "check",
        "reason": "approval",
        "question": "Send it?",
        "show": "Dear all",
        "editable": True,
        "expires_at": None,
    }
    assert [(step["key"], step["state"]) for step in shown["steps"]] == [
        ("draft", "done"),
        ("check", "waiting"),
    ]
    assert (await finished(local, run))["run"]["waiting"][0]["question"] == "Send it?"


async def test_approvals_are_listed_newest_first_and_paged(local: Local):
    runs = [await waiting(local, metadata={"n": n}) for n in range(3)]
    listed = await local.json("GET", "/approvals")
    assert [approval["run_id"] for approval in listed] == runs[::-1]
    assert (listed[0]["agent_id"], listed[0]["step"], listed[0]["metadata"]) == ("ask", "check", {"n": 2})
    page = await local.json("GET", "/approvals?limit=1&offset=1")
    assert [approval["run_id"] for approval in page] == [runs[1]]
    for query in ("limit=0", "limit=201", "offset=-1", "limit=x"):
        await local.json("GET", f"/approvals?{query}", 422)
    found = await local.json("POST", "/runs/search", json={"reason": "waiting", "limit": 2})
    assert [run["run_id"] for run in found] == runs[:0:-1]
    assert await local.json("POST", "/runs/search", json={"reason": "waiting", "status": "success"}) == []


async def test_a_question_is_listed_while_other_steps_of_its_run_work(local: Local):
    run = (await local.json("POST", "/runs", json={"agent_id": "ask-beside"}))["run_id"]

    async def asked() -> bool:
        return [found["run_id"] for found in await local.json("GET", "/approvals")] == [run]

    await eventually(asked, "the question being listed")
    assert (await local.json("GET", f"/runs/{run}"))["state"] == "running"
    await local.json("POST", f"/runs/{run}/decisions", json={"action": "approve"})
    local.release.set()
    assert (await finished(local, run))["run"]["status"] == "success"
    assert await local.json("GET", "/approvals") == []


@pytest.mark.parametrize(
    ("decision", "status", "value"),
    [
        ({"action": "approve"}, "success", "Dear all"),
        ({"action": "edit", "value": "Dear both", "comment": "one left"}, "success", "Dear both"),
        ({"action": "reject", "step": "check", "comment": "too short"}, "error", None),
    ],
)
async def test_an_answer_lets_the_run_go_on(
    local: Local, decision: dict[str, Any], status: str, value: str | None
):
    run = await waiting(local)
    answered = await local.json("POST", f"/runs/{run}/decisions", json=decision)
    assert answered["run_id"] == run
    # The same answer twice is one; another comes too late.
    await local.json("POST", f"/runs/{run}/decisions", json=decision)
    ended = await finished(local, run)
    assert (ended["run"]["status"], ended["values"].get("output")) == (status, value)
    if value is None:
        assert (ended["run"]["error"]["code"], "too short" in ended["run"]["error"]["message"]) == (
            "rejected",
            True,
        )
    late = {"action": "edit", "value": "other"}
    assert (await local.json("POST", f"/runs/{run}/decisions", 409, json=late))["code"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"action": "retry"}, 422),
        ({"action": "resolve", "value": 1}, 422),
        ({"action": "approve", "step": "draft"}, 409),
        ({"action": "approve", "step": "nowhere"}, 409),
        ({"action": "praise"}, 422),
        ({}, 422),
        ({"action": "approve", "note": "x"}, 422),
        ({"action": "approve", "step": ""}, 422),
        ({"action": "approve", "step": 3}, 422),
        ({"action": "approve", "comment": 3}, 422),
    ],
)
async def test_an_answer_that_does_not_fit_is_refused(local: Local, body: dict[str, Any], status: int):
    run = await waiting(local)
    await local.json("POST", f"/runs/{run}/decisions", status, json=body)
    assert len(await local.json("GET", "/approvals")) == 1


async def test_a_stream_ends_where_the_run_waits_and_is_taken_up_behind_it(local: Local):
    run = await waiting(local)
    text = (await local.http.get(f"/runs/{run}/stream")).text
    assert '"type": "run_waiting"' in text
    assert text.endswith("event: end\ndata: null\n\n")
    last = max(int(line[4:]) for line in text.splitlines() if line.startswith("id: "))
    still = (await local.http.get(f"/runs/{run}/stream", headers={"Last-Event-ID": str(last)})).text
    assert "custom" not in still
    assert still.endswith("event: end\ndata: null\n\n")
    await local.json("POST", f"/runs/{run}/decisions", json={"action": "approve"})
    rest = (await local.http.get(f"/runs/{run}/stream", headers={"Last-Event-ID": str(last)})).text
    assert '"type": "step_decided"' in rest
    assert '"type": "run_done"' in rest
    assert '"type": "run_started"' not in rest
    whole = (await local.http.get(f"/runs/{run}/stream")).text
    assert '"type": "run_waiting"' in whole
    assert '"type": "run_done"' in whole


async def test_a_fork_goes_on_from_a_step_with_another_input(local: Local):
    run = await waiting(local)
    await local.json("POST", f"/runs/{run}/decisions", json={"action": "approve"})
    await finished(local, run)
    body = {"step": "send", "input": {"value": "Goodbye"}}
    forked = await local.json("POST", f"/runs/{run}/fork", json=body, headers={"Idempotency-Key": "f"})
    assert (forked["run_id"] != run, forked["forked_from"]) == (True, run)
    assert (await finished(local, forked["run_id"]))["values"] == {"output": "Goodbye"}
    again = await local.json("POST", f"/runs/{run}/fork", json=body, headers={"Idempotency-Key": "f"})
    assert again["run_id"] == forked["run_id"]
    assert local.runtime.count("draft") == 1
    assert (await local.json("POST", f"/runs/{run}/fork", 404, json={"step": "no"}))["code"] == "unknown_step"
    await local.json("POST", f"/runs/{run}/fork", 422, json={"step": "send", "input": "text"})
    await local.json("POST", f"/runs/{run}/fork", 422, json={"step": "send", "inputs": {}})


async def test_a_failed_run_is_resumed_with_more_to_spend(local: Local):
    failed = await local.json("POST", "/runs/wait", json={"agent_id": "flaky"})
    run = failed["run"]["run_id"]
    assert failed["run"]["status"] == "error"
    resumed = await local.json("POST", f"/runs/{run}/resume", json={"budget": {"tokens": 100}})
    assert resumed["budget"]["tokens"] == 100
    ended = await finished(local, run)
    assert (ended["run"]["status"], ended["values"]) == ("success", {"output": 2})
    assert (await local.json("POST", f"/runs/{run}/resume", 409, json={}))["code"] == "run_terminal"
    for budget in ({"tokens": -1}, {"tokens": 1.5}, {"tokens": True}, {"coins": 3}, 5):
        await local.json("POST", f"/runs/{run}/resume", 422, json={"budget": budget})


async def test_feedback_is_kept_in_order(local: Local):
    run = (await local.json("POST", "/runs/wait", json={"agent_id": "echo"}))["run"]["run_id"]
    first = await local.json("POST", f"/runs/{run}/feedback", json={"rating": 5})
    assert (first["rating"], first["comment"], first["by"], first["run_id"]) == (5, "", "local", run)
    await local.json("POST", f"/runs/{run}/feedback", json={"comment": "thin"})
    listed = await local.json("GET", f"/runs/{run}/feedback")
    assert [(entry["rating"], entry["comment"]) for entry in listed] == [(5, ""), (None, "thin")]
    for body in (
        {},
        {"rating": 0},
        {"rating": 6},
        {"rating": True},
        {"rating": 3, "stars": 1},
        {"comment": " "},
    ):
        await local.json("POST", f"/runs/{run}/feedback", 422, json=body)


async def test_the_record_of_calls_is_shown_whole_only_when_asked(local: Local):
    run = (await local.json("POST", "/runs", json={"agent_id": "hold"}))["run_id"]
    await eventually(lambda: local.runtime.count("work"), "the step being begun")
    scope: CallScope = local.runtime.tasks[0].scope
    intent = CallIntent(scope, "k", "model", "small", "hash", {"messages": ["hi"]})
    await local.service.begin_call(intent)
    await local.service.finish_call(CallOutcome(scope, "k", {"text": "ho"}, usage=Usage(3, 2, model_calls=1)))
    (call,) = await local.json("GET", f"/runs/{run}/calls")
    assert (call["kind"], call["name"], call["state"], call["step"]) == ("model", "small", "done", "work")
    assert call["usage"]["input_tokens"] == 3
    assert call.keys().isdisjoint({"request", "response"})
    (whole,) = await local.json("GET", f"/runs/{run}/calls?whole=true")
    assert (whole["request"], whole["response"]) == ({"messages": ["hi"]}, {"text": "ho"})


async def test_what_a_run_may_use_and_how_urgent_it_is(local: Local):
    budget = {"tokens": 1000, "seconds": 60.5, "money": None}
    body = {"agent_id": "echo", "priority": -5, "budget": budget, "timeout_s": 60}
    run = await local.json("POST", "/runs", json=body)
    assert (run["priority"], run["budget"]["tokens"], run["budget"]["seconds"]) == (-5, 1000, 60.5)
    assert run["budget"]["model_calls"] is None
    assert run["deadline"] > 0
    for bad in (
        {"priority": 101},
        {"priority": "1"},
        {"priority": True},
        {"timeout_s": 0},
        {"timeout_s": "60"},
        {"budget": {"tokens": "1"}},
        {"multitask_strategy": "rollback"},
        {"webhook": "file:///etc/passwd"},
        {"webhook": "no address"},
        {"webhook": ""},
        {"metadata": []},
        {"agent_id": ""},
        {"agent_id": 7},
        {"thread_id": "x"},
        {"messages": [{"content": "x"}]},
        {"messages": [{"role": "user", "content": 3}]},
        {"messages": [], "input": "text"},
        {"on_completion": "burn"},
        {"on_disconnect": True},
        {"stream_mode": "everything"},
    ):
        await local.json("POST", "/runs", 422, json={"agent_id": "echo", **bad})


async def test_a_thread_takes_one_run_at_a_time(local: Local):
    thread = str(uuid.uuid4())
    body = {"agent_id": "hold", "thread_id": thread, "if_not_exists": "create"}
    first = await local.json("POST", "/runs", json=body)
    queued = await local.json("POST", "/runs", json=body)
    refused = await local.json("POST", "/runs", 409, json={**body, "multitask_strategy": "reject"})
    assert refused["code"] == "thread_busy"
    await eventually(lambda: local.runtime.count("work"), "the first being begun")
    assert (await local.json("GET", f"/threads/{thread}"))["status"] == "busy"
    local.release.set()
    for run in (first, queued):
        assert (await finished(local, run["run_id"]))["run"]["status"] == "success"
    found = await local.json("POST", "/runs/search", json={"thread_id": thread})
    assert [run["run_id"] for run in found] == [queued["run_id"], first["run_id"]]
    assert (
        await local.json("POST", "/runs", 404, json={"agent_id": "echo", "thread_id": str(uuid.uuid4())})
    )["code"] == "unknown_thread"


async def test_a_thread_is_made_for_a_run_that_is_to_be_kept(local: Local):
    body = {"agent_id": "chat", "messages": [{"role": "user", "content": "hi"}], "on_completion": "keep"}
    runs = [
        await local.json("POST", "/runs", json=body, headers={"Idempotency-Key": "one"}) for _ in range(2)
    ]
    assert (runs[0]["run_id"], runs[0]["thread_id"]) == (runs[1]["run_id"], runs[1]["thread_id"])
    await finished(local, runs[0]["run_id"])
    thread = await local.json("GET", f"/threads/{runs[0]['thread_id']}")
    assert [message["role"] for message in thread["messages"]] == ["user", "assistant"]
    gone = {**body, "on_completion": "delete", "thread_id": thread["thread_id"]}
    assert (await local.json("POST", "/runs", 422, json=gone))["code"] == "unsupported"
    assert "thread_id" not in await local.json("POST", "/runs", json={**body, "on_completion": "delete"})


async def test_another_tenant_sees_and_changes_nothing(local: Local, monkeypatch: pytest.MonkeyPatch):
    run = await waiting(local)
    thread = (await local.json("POST", "/threads", json={}))["thread_id"]
    await local.json("PUT", "/store/items", 204, json={"namespace": ["a"], "key": "k", "value": {}})
    schedule = (await local.json("POST", "/schedules", json={"graph": "echo", "cron": "0 7 * * *"}))[
        "schedule_id"
    ]
    monkeypatch.setitem(local.api.dependency_overrides, caller_of, lambda: Caller("other", "somebody"))  # type: ignore[arg-type]
    assert await local.json("GET", "/approvals") == []
    assert await local.json("POST", "/runs/search", json={}) == []
    assert await local.json("POST", "/threads/search", json={}) == []
    assert await local.json("GET", "/schedules") == []
    assert await local.json("POST", "/store/items/search", json={}) == {"items": []}
    assert await local.json("POST", "/store/namespaces", json={}) == []
    for method, path, body in (
        ("POST", f"/runs/{run}/decisions", {"action": "approve"}),
        ("POST", f"/runs/{run}/fork", {"step": "draft"}),
        ("POST", f"/runs/{run}/resume", {}),
        ("POST", f"/runs/{run}/feedback", {"rating": 1}),
        ("GET", f"/runs/{run}/feedback", None),
        ("GET", f"/runs/{run}/calls", None),
        ("POST", f"/runs/{run}/cancel", None),
        ("DELETE", f"/runs/{run}", None),
        ("GET", f"/runs/{run}/stream", None),
        ("DELETE", f"/threads/{thread}", None),
        ("PATCH", f"/threads/{thread}", {"metadata": {"a": 1}}),
        ("POST", f"/threads/{thread}/copy", None),
        ("POST", f"/threads/{thread}/commands", {"id": 1, "method": "state.get"}),
        ("GET", "/store/items?namespace=a&key=k", None),
        ("DELETE", "/store/items", {"namespace": ["a"], "key": "k"}),
        ("PATCH", f"/schedules/{schedule}", {"enabled": False}),
        ("DELETE", f"/schedules/{schedule}", None),
    ):
        request = {} if body is None else {"json": body}
        assert (await local.json(method, path, 404, **request))["code"] == "not_found", path
    await local.json("POST", "/runs", 404, json={"agent_id": "echo", "thread_id": thread})
    monkeypatch.undo()
    assert len(await local.json("GET", "/approvals")) == 1
    assert (await local.json("GET", f"/threads/{thread}"))["metadata"] == {}
    assert (await local.json("GET", f"/schedules/{schedule}"))["enabled"] is True
