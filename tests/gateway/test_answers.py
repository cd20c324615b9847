"""What is answered to bad, late, repeated and hostile requests: one table of rows, and what all answers share."""

import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from manta.config import LimitSettings, ModelSettings
from manta.errors import (
    BudgetExceeded,
    CoordinatorUnavailable,
    MantaError,
    Overloaded,
    StorageUnavailable,
    Unavailable,
)
from serve_app.backends.sleep import SleepBackend
from serve_app.gateway.deps import Caller, caller_of
from tests.gateway.platform import Local, start
from tests.waiting import eventually

UNKNOWN = str(uuid.uuid4())
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Row:
    """A request and its answer. `{held}`, `{done}`, `{cancelled}`, `{asked}` in the path are runs in that state,
    `{thread}` is a thread that `{held}` works on.
    """

    method: str
    path: str
    status: int
    code: str
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.body} {self.code}"[:90]


RUN = {"agent_id": "echo"}
ROWS = [
    # Methods and routes.
    Row("PUT", "/runs", 405, "method_not_allowed"),
    Row("POST", "/threads/{thread}/history", 405, "method_not_allowed"),
    Row("GET", "/nowhere", 404, "not_found"),
    Row("POST", "/runs/{held}/nowhere", 404, "not_found"),
    # Ids.
    Row("GET", f"/runs/{UNKNOWN}", 404, "not_found"),
    Row("GET", f"/threads/{UNKNOWN}", 404, "not_found"),
    Row("GET", f"/schedules/{UNKNOWN}", 404, "not_found"),
    Row("GET", "/agents/none", 404, "unknown_graph"),
    Row("POST", "/runs", 404, "unknown_graph", {"agent_id": "none"}),
    Row("POST", "/schedules", 404, "unknown_graph", {"graph": "none", "cron": "* * * * *"}),
    Row("POST", "/runs", 404, "unknown_thread", {**RUN, "thread_id": UNKNOWN}),
    # Bodies.
    Row("POST", "/runs", 422, "invalid_input", {"agent_id": "ask", "input": {}}),
    Row("POST", "/runs", 422, "invalid_input", {"agent_id": True}),
    Row("POST", "/runs/search", 422, "invalid_input", {"limit": True}),
    Row("POST", "/runs/search", 422, "invalid_input", {"limit": "10"}),
    Row("POST", "/runs/search", 422, "invalid_input", {"status": "running"}),
    Row("POST", "/runs/{asked}/decisions", 422, "invalid_input", {"action": "approve", "extra": 1}),
    Row("POST", "/runs/{done}/feedback", 422, "invalid_input", {"rating": 3, "stars": 3}),
    Row("POST", "/schedules", 422, "invalid_input", {"graph": "echo", "cron": "every day"}),
    Row("POST", "/schedules", 422, "invalid_input", {"graph": "echo", "cron": "* * * * *", "timezone": "Mars"}),
    Row("POST", "/schedules", 422, "invalid_input", {"graph": "ask", "cron": "* * * * *", "input": {}}),
    Row("PUT", "/store/items", 422, "invalid_input", {"namespace": "a", "key": "k", "value": {}}),
    Row("PUT", "/store/items", 422, "invalid_input", {"namespace": [""], "key": "k", "value": {}}),
    Row("PUT", "/store/items", 422, "invalid_input", {"namespace": [], "key": "k", "value": 1}),
    Row("POST", "/threads", 422, "invalid_input", {"thread_id": "../x"}),
    Row("PATCH", "/threads/{thread}", 422, "invalid_input", {"messages": [{"role": "user"}]}),
    # Cursors.
    Row("GET", "/runs/{done}/stream", 400, "invalid_cursor", headers={"Last-Event-ID": "x"}),
    Row("GET", "/runs/{done}/stream", 400, "invalid_cursor", headers={"Last-Event-ID": "99"}),
    Row("GET", "/threads/{thread}/history?before=x", 400, "invalid_cursor"),
    Row("GET", f"/threads/{{thread}}/history?before={UNKNOWN}", 400, "invalid_cursor"),
    Row("POST", "/threads/{thread}/stream", 400, "invalid_cursor", {"channels": ["values"], "since": 1 << 52}),
    Row("POST", "/threads/{thread}/stream", 400, "invalid_cursor", {"channels": ["values"]}, {"Last-Event-ID": "x"}),
    Row("POST", "/threads/{thread}/stream", 422, "invalid_input", {"channels": []}),
    Row("POST", "/threads/{thread}/stream", 422, "invalid_input", {"channels": ["odd"]}),
    Row("GET", "/threads/{thread}/history?limit=0", 422, "invalid_input"),
    Row("GET", "/runs/{done}/stream?stream_mode=odd", 422, "invalid_input"),
    # Idempotency.
    Row("POST", "/runs", 422, "idempotency_conflict", {**RUN, "input": 2}, {"Idempotency-Key": "used"}),
    Row("POST", "/runs", 422, "invalid_input", RUN, {"Idempotency-Key": "x" * 256}),
    # States.
    Row("POST", "/runs/{done}/cancel", 409, "run_terminal"),
    Row("POST", "/runs/{done}/cancel?action=rollback", 409, "run_terminal"),
    Row("POST", "/runs/{done}/cancel?action=explode", 422, "invalid_input"),
    Row("DELETE", "/runs/{held}", 409, "run_active"),
    Row("DELETE", "/threads/{thread}", 409, "thread_busy"),
    Row("POST", "/runs", 409, "thread_busy", {**RUN, "thread_id": "{thread}", "multitask_strategy": "reject"}),
    Row("POST", "/threads", 409, "thread_exists", {"thread_id": "{thread}"}),
    Row("POST", "/runs/{held}/decisions", 409, "not_waiting", {"action": "approve"}),
    Row("POST", "/runs/{done}/decisions", 409, "not_waiting", {"action": "approve"}),
    Row("POST", "/runs/{held}/resume", 409, "run_active", {}),
    Row("POST", "/runs/{done}/resume", 409, "run_terminal", {}),
    Row("POST", "/runs/{done}/fork", 404, "unknown_step", {"step": "nowhere"}),
    # Bodies that are none.
    Row("POST", "/runs", 415, "unsupported_media_type", RUN, {"Content-Type": "text/plain"}),
    Row("POST", "/runs", 400, "invalid_json", b"{", JSON),
]  # fmt: skip


@pytest.fixture
async def states(local: Local) -> dict[str, str]:
    """Runs in every state, by the names that rows use."""
    done = await local.json(
        "POST", "/runs/wait", json={**RUN, "input": 1}, headers={"Idempotency-Key": "used"}
    )
    asked = await local.json("POST", "/runs/wait", json={"agent_id": "ask", "input": {"text": "x"}})
    cancelled = (await local.json("POST", "/runs", json={"agent_id": "hold"}))["run_id"]
    await local.json("POST", f"/runs/{cancelled}/cancel?wait=true", 204)
    thread = (await local.json("POST", "/threads", json={}))["thread_id"]
    held = (await local.json("POST", "/runs", json={"agent_id": "hold", "thread_id": thread}))["run_id"]
    return {
        "done": done["run"]["run_id"],
        "asked": asked["run"]["run_id"],
        "cancelled": cancelled,
        "held": held,
        "thread": thread,
    }


async def ask(local: Local, row: Row, states: dict[str, str]) -> Any:
    request: dict[str, Any] = {"headers": row.headers}
    body = row.body
    if isinstance(body, dict):
        body = {name: states.get(str(value).strip("{}"), value) for name, value in body.items()}
    if row.headers.get("Content-Type"):
        request["content"] = body if isinstance(body, bytes) else str(body).encode()
    elif body is not None:
        request["json"] = body
    path = row.path
    for name, value in states.items():
        path = path.replace(f"{{{name}}}", value)
    return await local.http.request(row.method, path, **request)


def check_shape(answer: Any) -> None:
    """The Agent Protocol's `ErrorResponse`, and nothing of what is inside the platform."""
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"code", "message", "metadata"}
    assert isinstance(body["message"], str)
    assert body["message"]
    assert isinstance(body["metadata"]["fix"], str)
    for inside in ("Traceback", "object at 0x", ".py", "sqlalchemy", "site-packages"):
        assert inside not in answer.text


async def test_every_row(local: Local, states: dict[str, str]):
    wrong = []
    for row in ROWS:
        answer = await ask(local, row, states)
        check_shape(answer)
        if (answer.status_code, answer.json()["code"]) != (row.status, row.code):
            wrong.append(f"{row}: {answer.status_code} {answer.text[:200]}")
    assert not wrong, "\n".join(wrong)


async def test_cancels(local: Local, states: dict[str, str]):
    for name in ("held", "cancelled", "asked", "held"):
        answer = await local.http.post(f"/runs/{states[name]}/cancel")
        assert (answer.status_code, answer.content) == (204, b""), name


async def test_the_same_key_and_body_is_the_same_run(local: Local, states: dict[str, str]):
    again = await local.json("POST", "/runs", json={**RUN, "input": 1}, headers={"Idempotency-Key": "used"})
    assert again["run_id"] == states["done"]


HOSTILE = [
    UNKNOWN,
    "%2e%2e",
    "..%2f..%2fetc%2fpasswd",
    "%00",
    f"{UNKNOWN}%00",
    "' OR 1=1 --",
    "x" * 4000,
    "%ff%fe",
    "٣" * 36,
    "{held}",
    f"{UNKNOWN}%0a",
]


@pytest.mark.parametrize("thing", ["runs", "threads", "schedules"])
async def test_what_is_anothers_unknown_or_no_id_at_all_is_answered_alike(
    local: Local, states: dict[str, str], thing: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(local.api.dependency_overrides, caller_of, lambda: Caller("other", "somebody"))  # type: ignore[arg-type]
    schedule = "" if thing != "schedules" else UNKNOWN
    foreign = {"runs": states["done"], "threads": states["thread"], "schedules": schedule}[thing]
    seen = set()
    for name in (foreign, *HOSTILE):
        answer = await local.http.request("GET", f"/{thing}/{name}", follow_redirects=False)
        seen.add((answer.status_code, answer.text))
    assert seen == {
        (
            404,
            f'{{"code":"not_found","message":"there is no such {thing[:-1]}","metadata":{{"fix":"check its id"}}}}',
        )
    }


async def test_a_wrong_method_names_the_right_ones(local: Local, states: dict[str, str]):
    for path, allowed in (
        ("/runs", "POST"),
        (f"/runs/{states['done']}", "DELETE, GET"),
        (f"/threads/{states['thread']}", "DELETE, GET, PATCH"),
        ("/store/items", "DELETE, GET, PUT"),
        ("/collections/a/documents/b/c.md", "DELETE, PUT"),
    ):
        answer = await local.http.request("TRACE", path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


TROUBLE = [
    (Overloaded("20000 runs wait already", fix="send it again later"), 429, "overloaded"),
    (Unavailable("the coordinator is being stopped", code="draining"), 503, "draining"),
    (StorageUnavailable("the journal's disk is full"), 503, "storage_unavailable"),
    (CoordinatorUnavailable("it restarts"), 503, "coordinator_unavailable"),
]


@pytest.mark.parametrize(("trouble", "status", "code"), TROUBLE, ids=[code for _, _, code in TROUBLE])
async def test_what_may_pass_says_when_to_come_back(
    local: Local, trouble: MantaError, status: int, code: str
):
    local.coordinator.away |= {"submit", "get", "library"}
    local.coordinator.trouble = trouble
    for method, path, body in (
        ("POST", "/runs", RUN),
        ("POST", "/runs/wait", RUN),
        ("POST", "/runs/stream", RUN),
        ("GET", f"/runs/{UNKNOWN}", None),
        ("POST", "/threads", {}),
        (
            "POST",
            f"/threads/{UNKNOWN}/commands",
            {"id": 1, "method": "run.start", "params": {"assistant_id": "echo"}},
        ),
    ):
        answer = (
            await local.http.request(method, path, json=body)
            if body is not None
            else await local.http.get(path)
        )
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert int(answer.headers["retry-after"]) > 0
        check_shape(answer)


async def test_a_budget_that_is_used_up_is_no_matter_of_waiting(local: Local):
    local.coordinator.away |= {"submit"}
    local.coordinator.trouble = BudgetExceeded("11 of 10 tokens")
    answer = await local.http.post("/runs", json=RUN)
    assert (answer.status_code, answer.json()["code"]) == (429, "budget_exceeded")
    assert "retry-after" not in answer.headers


async def test_a_full_queue_refuses_and_takes_runs_again_later(tmp_path: Path):
    sleeper = SleepBackend("sleeper", ModelSettings(backend="sleep"))
    local, stop = await start(tmp_path, {"sleeper": sleeper}, LimitSettings(active_runs=1, queued_runs=1))
    try:
        for _ in range(2):
            await local.json("POST", "/runs", json={"agent_id": "hold"})
        answer = await local.http.post("/runs", json={"agent_id": "hold"})
        assert (answer.status_code, answer.json()["code"]) == (429, "overloaded")
        assert answer.headers["retry-after"]
        local.release.set()

        async def accepted() -> bool:
            return (await local.http.post("/runs", json=RUN)).status_code == 200

        await eventually(accepted, "a run being accepted again")
    finally:
        await stop()


async def test_a_defect_tells_nothing_of_itself(local: Local, monkeypatch: pytest.MonkeyPatch):
    def burst(*_: Any) -> None:
        raise RuntimeError("secret /etc/path")

    monkeypatch.setattr(local.service, "get", burst)
    answer = await local.http.get(f"/runs/{UNKNOWN}")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    check_shape(answer)
    assert "secret" not in answer.text
