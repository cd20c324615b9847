"""The coordinator dies before it answers and the gateway asks its successor; a caller repeats a request by its key."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from coordinator.service import CoordinatorService
from manta.clock import SystemClock
from tests.gateway.platform import Local


class Mortal:
    """Stands before a coordinator that dies once, between what it does for `fatal` and its answer to that."""

    def __init__(self, local: Local) -> None:
        self._local = local
        self._call = local.coordinator.call
        self.fatal: tuple[str, ...] = ()
        self.deaths = 0

    async def call(self, method: str, *arguments: Any, patience_s: float = 15.0) -> Any:
        answer = await self._call(method, *arguments)
        if not self.fatal or self.fatal != (method, *arguments)[: len(self.fatal)]:
            return answer
        self.fatal = ()
        self.deaths += 1
        await self._succeed()
        return await self._call(method, *arguments)

    async def _succeed(self) -> None:
        dead = self._local.service
        await dead.close()
        self._local.service = CoordinatorService(
            dead._url, self._local.runtime, dead._graphs, dead._names, SystemClock(), "me"
        )
        await self._local.service.started()
        self._local.coordinator._target = self._local.service


@pytest.fixture
async def mortal(local: Local) -> AsyncIterator[Mortal]:
    first, made = local.service, Mortal(local)
    local.coordinator.call = made.call  # type: ignore[method-assign]
    yield made
    if local.service is not first:
        # The fixture `local` closes the first.
        await local.service.close()


async def ended(local: Local, graph: str, value: Any = None) -> str:
    answer = await local.json("POST", "/runs/wait", json={"agent_id": graph, "input": value or {}})
    return str(answer["run"]["run_id"])


async def test_an_answer_is_given_once(local: Local, mortal: Mortal):
    run = await ended(local, "ask", {"text": "hi"})
    mortal.fatal = ("decide",)
    # Its successor may have acted on it by then, so that nothing waits any more.
    answered = await local.json("POST", f"/runs/{run}/decisions", json={"action": "edit", "value": "ho"})
    assert (answered["run_id"], mortal.deaths) == (run, 1)
    assert (await local.json("GET", f"/runs/{run}/wait"))["values"] == {"output": "ho"}


async def test_a_run_is_resumed_once(local: Local, mortal: Mortal):
    run = await ended(local, "flaky")
    mortal.fatal = ("resume",)
    resumed = await local.json("POST", f"/runs/{run}/resume", json={"budget": {"tokens": 9}})
    assert (resumed["run_id"], resumed["budget"]["tokens"], mortal.deaths) == (run, 9, 1)
    assert (await local.json("GET", f"/runs/{run}/wait"))["run"]["status"] == "success"


async def test_feedback_is_said_once(local: Local, mortal: Mortal):
    run = await ended(local, "echo")
    mortal.fatal = ("library", "feedback", "add")
    said = await local.json("POST", f"/runs/{run}/feedback", json={"rating": 4})
    assert mortal.deaths == 1
    assert await local.json("GET", f"/runs/{run}/feedback") == [said]
    # Without a key of the caller's, two requests are two.
    await local.json("POST", f"/runs/{run}/feedback", json={"rating": 4})
    assert len(await local.json("GET", f"/runs/{run}/feedback")) == 2


async def test_a_schedule_is_made_once(local: Local, mortal: Mortal):
    mortal.fatal = ("library", "schedules", "create")
    made = await local.json("POST", "/schedules", json={"graph": "echo", "cron": "0 7 * * *"})
    assert mortal.deaths == 1
    assert await local.json("GET", "/schedules") == [made]


async def test_threads_are_made_copied_and_changed_once(local: Local, mortal: Mortal):
    name = "6d1c5a5e-0b0e-4f3a-9a3e-0d9f0f6b1a11"
    mortal.fatal = ("library", "threads", "create")
    thread = await local.json("POST", "/threads", json={"thread_id": name, "metadata": {"a": 1}})
    assert (thread["thread_id"], mortal.deaths) == (name, 1)
    mortal.fatal = ("library", "threads", "patch")
    told = {"messages": [{"role": "user", "content": "hi"}]}
    changed = await local.json("PATCH", f"/threads/{name}", json=told)
    assert (len(changed["messages"]), mortal.deaths) == (1, 2)
    assert len(await local.json("GET", f"/threads/{name}/history")) == 1
    mortal.fatal = ("library", "threads", "copy")
    copied = await local.json("POST", f"/threads/{name}/copy")
    assert (copied["messages"], mortal.deaths) == (changed["messages"], 3)
    found = await local.json("POST", "/threads/search", json={"metadata": {"a": 1}})
    assert {thread["thread_id"] for thread in found} == {name, copied["thread_id"]}
    mortal.fatal = ("library", "threads", "create")
    await local.json("POST", "/threads", json={"metadata": {"b": 1}})
    assert len(await local.json("POST", "/threads/search", json={"metadata": {"b": 1}})) == 1


async def test_a_command_to_a_thread_is_done_once(local: Local, mortal: Mortal):
    thread = (await local.json("POST", "/threads", json={}))["thread_id"]
    body = {"agent_id": "chat", "thread_id": thread, "messages": [{"role": "user", "content": "hi"}]}
    await local.json("POST", "/runs/wait", json=body)
    [state] = await local.json("GET", f"/threads/{thread}/history")
    for fatal in ("copy", "patch"):
        mortal.fatal = ("library", "threads", fatal)
        params = {"checkpoint_id": state["checkpoint"]["checkpoint_id"], "input": {}}
        command = {"id": 1, "method": "state.fork", "params": params}
        answer = await local.json("POST", f"/threads/{thread}/commands", json=command)
        assert answer["type"] == "success", answer
        await local.json("GET", f"/runs/{answer['result']['run_id']}/wait")
        # The copied one, the one that goes back to it, and what the run left.
        assert len(await local.json("GET", f"/threads/{answer['result']['thread_id']}/history")) == 3
    assert mortal.deaths == 2
    assert len(await local.json("POST", "/threads/search", json={})) == 3


async def test_what_is_deleted_is_gone_also_when_the_answer_is_lost(local: Local, mortal: Mortal):
    run = await ended(local, "echo")
    thread = (await local.json("POST", "/threads", json={}))["thread_id"]
    body = {"graph": "echo", "cron": "0 7 * * *"}
    schedule = (await local.json("POST", "/schedules", json=body))["schedule_id"]
    item = {"namespace": ["a"], "key": "k"}
    await local.json("PUT", "/store/items", 204, json={**item, "value": {}})
    for fatal, path, request in (
        (("delete",), f"/runs/{run}", {}),
        (("library", "threads", "delete"), f"/threads/{thread}", {}),
        (("library", "schedules", "delete"), f"/schedules/{schedule}", {}),
        (("library", "items", "delete"), "/store/items", {"json": item}),
    ):
        mortal.fatal = fatal
        await local.json("DELETE", path, 204, **request)
        # What was not there when the request came is not found.
        await local.json("DELETE", path, 404, **request)
    assert mortal.deaths == 4


async def test_a_request_of_the_same_key_is_the_same_request(local: Local):
    run = await ended(local, "flaky")
    thread = (await local.json("POST", "/threads", json={}))["thread_id"]
    asked = await ended(local, "ask", {"text": "hi"})
    for path, body, other in (
        ("/threads", {"metadata": {"a": 1}}, {"metadata": {"a": 2}}),
        (f"/threads/{thread}/copy", None, None),
        ("/schedules", {"graph": "echo", "cron": "0 7 * * *"}, {"graph": "echo", "cron": "0 8 * * *"}),
        (f"/runs/{run}/feedback", {"rating": 5}, {"rating": 4}),
        (f"/runs/{asked}/decisions", {"action": "approve"}, {"action": "reject"}),
        (f"/runs/{run}/resume", {}, {"budget": {"tokens": 5}}),
    ):
        named = {"headers": {"Idempotency-Key": "mine"}}
        first = await local.json("POST", path, **named, **({} if body is None else {"json": body}))
        again = await local.json("POST", path, **named, **({} if body is None else {"json": body}))
        for name in ("thread_id", "schedule_id", "feedback_id", "run_id"):
            assert first.get(name) == again.get(name), path
        if other is not None:
            refused = await local.json("POST", path, 422, json=other, **named)
            assert refused["code"] == "idempotency_conflict", path
    for key in ("", "x" * 256, "tab\there"):
        await local.json("POST", "/threads", 422, json={}, headers={"Idempotency-Key": key})
