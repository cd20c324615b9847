"""Both clients on what lives beside runs, and on what people do with runs, against the real gateway."""

import inspect
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manta import Client, async_client, async_client_rooms, client_rooms
from manta.config import ModelSettings
from manta.errors import (
    Conflict,
    IdempotencyConflict,
    InvalidInput,
    MantaError,
    NotFound,
    PlatformError,
    Rejected,
)
from manta.messages import Budget
from serve_app.backends.sleep import SleepBackend
from tests.client.test_client import Awaited
from tests.gateway.serving import Apart, served_apart

TEXT = {"text": "Dear all"}
HI = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    sleeper = SleepBackend("sleeper", ModelSettings(backend="sleep", step_s=(0.001, 0)))
    folder: Path = tmp_path_factory.mktemp("platform")
    with served_apart(folder, {"sleeper": sleeper}) as made:
        yield made


@pytest.fixture(params=[Client, Awaited], ids=["sync", "async"])
def client(request: pytest.FixtureRequest, platform: Apart) -> Iterator[Any]:
    made = request.param(platform.url)
    yield made
    made.close()


def test_a_run_that_waits_says_what_for_and_goes_on_when_approved(client):
    with pytest.raises(MantaError, match=r"waits for a person: Send it\?") as caught:
        client.run("ask", TEXT, metadata={"case": "approved"})
    assert caught.value.code == "waiting"
    (run,) = client.list(status="waiting", metadata={"case": "approved"})
    assert (run.status, run.state, run.reason, run.done) == ("waiting", "waiting", "waiting", False)
    shown = client.get(run.id)
    (asked,) = shown.waiting
    assert (asked.step, asked.question, asked.show, asked.editable) == ("check", "Send it?", "Dear all", True)
    assert client.wait(run.id).run.waiting == (asked,)
    assert run.id in {approval.run_id for approval in client.approvals()}
    client.approve(run.id, comment="fine")
    done = client.wait(run.id)
    assert (done.run.status, done.output) == ("success", {"output": "Dear all"})
    with pytest.raises(Conflict):
        client.edit(run.id, "other")


def test_an_approval_is_edited_or_rejected(client):
    edited, rejected = (client.submit("ask", TEXT) for _ in range(2))
    for run in (edited, rejected):
        assert client.wait(run.id).run.status == "waiting"
    client.edit(edited.id, {"better": 1}, step="check")
    assert client.wait(edited.id).output == {"better": 1}
    client.reject(rejected.id, comment="no")
    assert isinstance(client.wait(rejected.id).run.failure(), Rejected)
    for name in ("retry", "resolve"):
        run = client.submit("ask", TEXT)
        client.wait(run.id)
        with pytest.raises(InvalidInput):
            getattr(client, name)(run.id, *([1] if name == "resolve" else []))
        client.cancel(run.id, wait=True)


def test_a_stream_ends_where_the_run_waits_and_is_taken_up(client):
    run = client.submit("ask", TEXT)
    before = list(client.stream(run.id))
    assert before[-1].type == "run_waiting"
    client.approve(run.id)
    after = list(client.stream(run.id, after=before[-1].seq))
    assert [event.type for event in after][-1] == "run_done"
    assert [event.seq for event in after] == list(range(before[-1].seq + 1, after[-1].seq + 1))


def test_forks_and_resumed_runs(client):
    run = client.run("echo", {"a": 1}).run
    key = str(uuid.uuid4())
    forked = client.fork(run.id, "work", {"value": 2}, idempotency_key=key)
    assert forked.forked_from == run.id
    assert client.wait(forked.id).output == {"output": 2}
    assert client.fork(run.id, "work", {"value": 2}, idempotency_key=key).id == forked.id
    with pytest.raises(NotFound):
        client.fork(run.id, "nowhere")
    with pytest.raises(NotFound, match="not yet"):
        client.run("flaky", {}, idempotency_key=key + "flaky")
    failed = client.submit("flaky", {}, idempotency_key=key + "flaky")
    assert failed.status == "error"
    assert client.resume(failed.id, budget={"tokens": 50}).budget == Budget(tokens=50)
    assert client.wait(failed.id).output == {"output": 2}


def test_what_a_run_may_use(client):
    budget = Budget(tokens=100, seconds=5)
    run = client.submit("echo", {}, budget=budget, priority=-3, timeout_s=60, webhook="http://127.0.0.1:9/x")
    assert (run.budget, run.priority, run.webhook) == (budget, -3, "http://127.0.0.1:9/x")
    assert run.deadline is not None
    for wrong in ({"budget": {"coins": 1}}, {"priority": 1000}, {"timeout_s": -1}, {"webhook": "nowhere"}):
        with pytest.raises(InvalidInput):
            client.submit("echo", {}, **wrong)
    key = str(uuid.uuid4())
    client.submit("echo", {}, idempotency_key=key, priority=1)
    with pytest.raises(IdempotencyConflict):
        client.submit("echo", {}, idempotency_key=key, priority=2)


def test_feedback_calls_and_deletion(client):
    run = client.run("echo", {}).run
    assert (client.rate(run.id, 4).rating, client.rate(run.id, comment="thin").comment) == (4, "thin")
    assert [entry.rating for entry in client.feedback(run.id)] == [4, None]
    with pytest.raises(InvalidInput):
        client.rate(run.id)
    assert list(client.calls(run.id, whole=True)) == []
    client.delete(run.id)
    with pytest.raises(NotFound):
        client.get(run.id)


def test_a_conversation(client):
    thread = client.threads.create(metadata={"who": "me"})
    for text in ("one", "two"):
        message = {"role": "user", "content": text}
        result = client.run("chat", {"messages": [message]}, thread=thread.id)
    assert (result.run.thread, result.output) == (thread.id, {"turns": 1})
    assert [m["content"] for m in result.messages] == ["you said two, after 2 messages"]
    assert [run.thread for run in client.list(thread=thread.id)] == [thread.id] * 2
    found = client.threads.get(thread.id)
    assert (found.status, len(found.messages), found.metadata) == ("idle", 4, {"who": "me"})
    states = client.threads.history(thread.id)
    assert [len(state.messages) for state in states] == [4, 2]
    assert states[0].parent == states[1].checkpoint
    assert states[0].run_id == result.run.id
    assert list(client.threads.history(thread.id, before=states[0].checkpoint)) == [states[1]]
    back = client.threads.patch(thread.id, values={"note": 1}, checkpoint=states[1].checkpoint)
    assert (back.values, len(back.messages)) == ({"turns": 1, "note": 1}, 2)
    copied = client.threads.copy(thread.id)
    assert copied.id in {t.id for t in client.threads.search(values={"note": 1})}
    client.threads.delete(copied.id)
    with pytest.raises(NotFound):
        client.threads.get(copied.id)
    assert client.threads.create(thread.id, exist_ok=True).id == thread.id
    with pytest.raises(Conflict):
        client.threads.create(thread.id)


def test_schedules(client):
    made = client.schedules.create("echo", {"a": 1}, "0 7 * * 1-5", timezone="Europe/Berlin")
    assert (made.enabled, made.timezone, made.next_at is not None) == (True, "Europe/Berlin", True)
    off = client.schedules.patch(made.id, enabled=False)
    assert (off.enabled, off.next_at, off.input) == (False, None, {"a": 1})
    moved = client.schedules.patch(made.id, cron="30 8 * * *", timezone="UTC", input={"a": 2}, enabled=True)
    assert (moved.cron, moved.timezone, moved.input) == ("30 8 * * *", "UTC", {"a": 2})
    assert client.schedules.get(made.id) == moved
    assert made.id in {schedule.id for schedule in client.schedules.list(graph="echo")}
    assert list(client.schedules.list(graph="chat")) == []
    for wrong in (("echo", {}, "often"), ("ask", {}, "0 7 * * *")):
        with pytest.raises(InvalidInput):
            client.schedules.create(*wrong)
    client.schedules.delete(made.id)
    with pytest.raises(NotFound):
        client.schedules.get(made.id)


def test_items(client):
    space = ["users", str(uuid.uuid4())]
    client.items.put(space, "profile", {"name": "M", "age": 3})
    client.items.put(space, "profile", {"name": "M", "age": 4})
    assert client.items.get(space, "profile").value == {"name": "M", "age": 4}
    assert [item.key for item in client.items.search(space, filter={"age": 4})] == ["profile"]
    assert list(client.items.search(space, filter={"age": 3})) == []
    assert tuple(space) in set(client.items.namespaces(["users"]))
    assert list(client.items.namespaces(["users"], suffix=[space[1]], max_depth=1)) == [("users",)]
    client.items.delete(space, "profile")
    for call in (client.items.get, client.items.delete):
        with pytest.raises(NotFound):
            call(space, "profile")


def test_models(client, platform, monkeypatch):
    monkeypatch.setattr("manta.wire.model_versions.LOOK_S", 0.0)
    name = f"m{uuid.uuid4().hex[:8]}"
    made = client.models.add(name, {"backend": "sleep"}, note="first")
    assert (made.version, made.note, made.created_by, made.source) == (1, "first", "local", "api")
    assert client.models.wait(name, 1).weights == {1: 100}
    found = client.models.get(name)
    assert (found.name, found.default, found.route, found.pending) == (name, False, found.history[0], None)
    assert (found.version(1).state, found.version(1).share, found.version(2)) == ("running", 1.0, None)
    assert found.route.created_at <= found.route.active_at
    assert name in {model.name for model in client.models.list()}

    client.models.add(name, {"backend": "sleep", "max_batch": 2})
    split = client.models.split(name, {1: 3, 2: 1}, sticky="none", keep_s=1)
    assert (split.state, split.sticky) == ("pending", "none")
    assert client.models.wait(name, split.revision).state == "active"
    compared = client.models.comparison(name)
    assert [(arm.version, arm.share, arm.calls) for arm in compared.arms] == [(1, 0.75, 0), (2, 0.25, 0)]
    assert (compared.enough, compared.since is not None, compared.until) == (False, True, None)
    assert compared.differences[0].shortfall.startswith("version 1 has 0 of 30 observations")
    promoted = client.models.promote(name, 2)
    assert client.models.wait(name, promoted.revision).weights == {2: 100}
    back = client.models.rollback(name)
    assert (back.weights, back.why) == ({1: 3, 2: 1}, "rolled_back")
    client.models.promote(name, 1)
    with pytest.raises(Conflict, match="superseded"):
        client.models.wait(name, back.revision)
    assert client.models.scale(name, 2, max=3).settings["replicas"]["max"] == 3
    with pytest.raises(InvalidInput, match=r"settings\.max_batch"):
        client.models.add(name, {"max_batch": 0})
    client.models.remove(name)
    with pytest.raises(NotFound):
        client.models.get(name)
    assert client.models.replicas("sleeper") == [{"node": "here", "running": 0}]


def test_a_model_that_does_not_start(client, platform, monkeypatch):
    monkeypatch.setattr("manta.wire.model_versions.LOOK_S", 0.0)
    name = f"m{uuid.uuid4().hex[:8]}"
    platform.local.keeper._target.broken.add(f"manta-model-{name}-v1")
    client.models.add(name, {"backend": "sleep"})
    with pytest.raises(Conflict, match="there are no weights") as caught:
        client.models.wait(name, 1)
    assert caught.value.code == "route_failed"
    monkeypatch.setattr(platform.local.keeper._target, "idle", True)
    client.models.add(name, {"backend": "sleep", "max_batch": 2})
    with pytest.raises(PlatformError) as late:
        client.models.wait(name, 2, timeout=0)
    assert late.value.code == "wait_timeout"


def test_the_two_clients_have_the_same_methods():
    for one, other in (
        (Client, async_client.AsyncClient),
        (client_rooms.Threads, async_client_rooms.Threads),
        (client_rooms.Schedules, async_client_rooms.Schedules),
        (client_rooms.Items, async_client_rooms.Items),
        (client_rooms.Models, async_client_rooms.Models),
    ):
        assert _methods(one) == _methods(other)


def _methods(kind: type) -> dict[str, Any]:
    found = inspect.getmembers(kind, inspect.isfunction)
    return {
        name: list(inspect.signature(method).parameters) for name, method in found if not name.startswith("_")
    }
