"""Both clients against a server on a real socket. The async one is driven through the same tests."""

import asyncio
import inspect
import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, PlainTextResponse

from manta import AsyncClient, Client
from manta.errors import (
    Conflict,
    CoordinatorUnavailable,
    InvalidInput,
    MantaError,
    NotFound,
    PlatformError,
    RunCancelled,
    Unavailable,
    UnreadableDocument,
)
from manta.messages import ChatMessage
from tests.client.platform_double import PNG, PlatformDouble


class Awaited:
    """An AsyncClient that is called like a Client: what it returns is awaited, what it streams is listed."""

    def __init__(self, url: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client: Any = AsyncClient(url, **options)

    def __getattr__(self, name: str) -> Any:
        if not callable(getattr(self._client, name)):
            # A part of the client: the same around it.
            room = object.__new__(Awaited)
            room._loop, room._client = self._loop, getattr(self._client, name)
            return room

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._loop.run_until_complete(self._finish(getattr(self._client, name)(*args, **kwargs)))

        return call

    async def _finish(self, value: Any) -> Any:
        while inspect.isawaitable(value):
            value = await value
        return [item async for item in value] if inspect.isasyncgen(value) else value

    def close(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


@pytest.fixture(params=[Client, Awaited], ids=["sync", "async"])
def make(request: pytest.FixtureRequest):
    made: list[Any] = []

    def build(url: str, **options: Any) -> Any:
        made.append(request.param(url, **options))
        return made[-1]

    yield build
    for client in made:
        client.close()


@pytest.fixture
def client(make, platform: PlatformDouble) -> Any:
    return make(platform.url, patience_s=5)


def test_run_waits_for_the_output(client, platform: PlatformDouble):
    result = client.run("echo", {"a": 1}, metadata={"who": "me"})
    assert result.output == {"a": 1}
    assert (result.run.status, result.run.graph, result.run.usage.output_tokens) == ("success", "echo", 3)


def test_an_output_that_is_no_object_is_wrapped(client):
    assert client.run("echo", "plain").output == {"output": "plain"}


def test_a_failed_run_raises_the_error_of_its_code(client):
    with pytest.raises(UnreadableDocument, match="it broke"):
        client.run("echo", {"fail": "unreadable_document"})


def test_wait_returns_a_run_that_failed(client):
    run = client.submit("echo", {"fail": "step_failed"})
    result = client.wait(run.id)
    assert result.run.status == "error"
    assert result.run.failure().code == "step_failed"


def test_the_same_key_is_the_same_run(client, platform: PlatformDouble):
    ids = {client.submit("echo", {}, idempotency_key="k").id for _ in range(3)}
    assert len(ids) == 1 == len(platform.runs)


def test_a_submit_whose_answer_is_lost_makes_one_run(client, platform: PlatformDouble):
    platform.drop_requests = 2
    run = client.submit("echo", {})
    assert list(platform.runs) == [run.id]
    assert [path for _, path, _ in platform.requests] == ["/runs"] * 3


def test_a_chat_whose_answer_is_lost_is_not_repeated(client, platform: PlatformDouble):
    platform.drop_requests = 1
    with pytest.raises(PlatformError, match="platform_unreachable"):
        client.chat("hi", model="small")
    assert len(platform.requests) == 1


def test_a_wait_that_is_too_long_says_that_the_run_goes_on(client, platform: PlatformDouble):
    run = client.submit("hold", {})
    with pytest.raises(PlatformError, match="goes on") as caught:
        client.wait(run.id, timeout=0.1)
    assert caught.value.code == "wait_timeout"
    assert platform.runs[run.id].status == "pending"


def test_a_wait_outlives_a_service_that_is_away(client, platform: PlatformDouble):
    run = client.submit("echo", {"a": 1})
    away = {"code": "coordinator_unavailable", "message": "it restarts", "metadata": {"fix": "wait"}}
    platform.answer_with = [
        JSONResponse(away, 503),
        PlainTextResponse("no route", 404),
        PlainTextResponse("oops", 502),
    ]
    assert client.wait(run.id).output == {"a": 1}


def test_a_service_that_stays_away_is_an_error(make, platform: PlatformDouble):
    client = make(platform.url, patience_s=0.2)
    run = client.submit("echo", {})
    away = {"code": "coordinator_unavailable", "message": "it restarts", "metadata": {"fix": "wait"}}
    platform.answer_with = [JSONResponse(away, 503) for _ in range(50)]
    with pytest.raises(PlatformError, match="it restarts"):
        client.wait(run.id)


def test_stream_gives_every_event_once_and_tokens(client):
    run = client.submit("echo", {"a": 1})
    events = list(client.stream(run.id))
    assert [e.type for e in events] == ["run_started", "step_started", "token", "step_done", "run_done"]
    assert [e.seq for e in events] == [1, 2, 0, 3, 4]
    assert events[2].data == {"text": "tok"}


def test_stream_after_leaves_out_what_was_seen(client, platform: PlatformDouble):
    run = client.submit("echo", {})
    assert [e.seq for e in client.stream(run.id, after=3)] == [4]
    assert platform.requests[-1][2]["last-event-id"] == "3"


def test_stream_resumes_where_a_connection_broke(client, platform: PlatformDouble):
    run = client.submit("echo", {})
    platform.cut_after = [1, 0, 2]
    assert [e.seq for e in client.stream(run.id) if e.seq] == [1, 2, 3, 4]
    resumed = [h.get("last-event-id") for _, path, h in platform.requests if path.endswith("/stream")]
    assert resumed == [None, "1", "1", "3"]


def test_stream_of_a_failed_run_ends_with_its_event(client):
    run = client.submit("echo", {"fail": "step_failed"})
    assert [e.type for e in client.stream(run.id)][-1] == "run_failed"


def test_stream_of_a_silent_run_returns_when_told_so(client):
    run = client.submit("hold", {})
    assert [e.type for e in client.stream(run.id, silence_s=0.3)][:2] == ["run_started", "step_started"]


def test_keep_alives_do_not_hide_that_a_run_is_silent(client, platform: PlatformDouble):
    platform.keep_alive_s = 0.05
    run = client.submit("hold", {})
    assert [e.type for e in client.stream(run.id, silence_s=0.4)][:2] == ["run_started", "step_started"]
    assert platform.streams == 1


def test_a_proxy_that_cuts_idle_connections_does_not_lose_a_run(make, platform: PlatformDouble):
    client = make(platform.url, patience_s=0.5)
    platform.keep_alive_s, platform.cut_when_idle = 0.05, True
    run = client.submit("hold", {})

    def release_later() -> None:
        # Four cuts with their pauses of 0.1 to 0.8 s take longer than the client's patience.
        while platform.streams < 5:
            threading.Event().wait(0.01)
        platform.release(run.id)

    threading.Thread(target=release_later, daemon=True).start()
    assert [e.type for e in client.stream(run.id)][-1] == "run_done"
    assert platform.streams >= 5


def test_stream_follows_while_the_run_goes_on(client, platform: PlatformDouble):
    run = client.submit("hold", {})
    threading.Timer(0.2, platform.release, [run.id]).start()
    assert [e.type for e in client.stream(run.id)][-1] == "run_done"


def test_stream_of_an_unknown_run(client):
    with pytest.raises(NotFound):
        list(client.stream("nope"))


def test_get_list_and_cancel(client):
    held = client.submit("hold", {})
    other = client.submit("echo", {})
    assert client.get(held.id).status == "pending"
    assert client.get(other.id).steps[0].agent == "worker"
    assert [r.id for r in client.list()] == [other.id, held.id]
    assert [r.id for r in client.list(graph="hold")] == [held.id]
    client.cancel(held.id)
    cancelled = client.wait(held.id).run
    assert (cancelled.status, cancelled.reason) == ("interrupted", "cancelled")
    assert isinstance(cancelled.failure(), RunCancelled)
    client.cancel(held.id)
    with pytest.raises(Conflict):
        client.cancel(other.id)


def test_chat(client):
    reply = client.chat("hello there")
    assert (reply.text, reply.model, reply.usage.output_tokens) == ("you said: hello there", "small", 7)
    named = client.chat([ChatMessage("system", "be brief"), {"role": "user", "content": "x"}], model="echo")
    assert named.model == "echo"


def test_chat_streamed(client):
    assert "".join(client.chat("hello", stream=True)) == "you said: hello "


@pytest.mark.parametrize("stream", [False, True])
def test_openai_errors_have_their_class(client, stream: bool):
    with pytest.raises(NotFound, match="there is no model"):
        list(client.chat("hi", model="missing", stream=stream))


def test_files_go_up_and_down(client, tmp_path: Path):
    file = tmp_path / "data.csv"
    file.write_bytes(b"a,b\n1,2\n")
    ref = client.upload_file(file)
    assert (ref.name, ref.size, ref.media_type) == ("data.csv", 8, "text/csv")
    assert client.download(ref) == client.download(ref.sha256) == b"a,b\n1,2\n"


def test_a_file_that_came_changed_is_refused(client, platform: PlatformDouble):
    platform.files["0" * 64] = PNG
    with pytest.raises(PlatformError, match="does not match its hash"):
        client.download("0" * 64)


def test_a_file_that_is_not_there(client, tmp_path: Path):
    with pytest.raises(InvalidInput, match="No such file"):
        client.upload_file(tmp_path / "none.csv")


def test_documents(client, platform: PlatformDouble, tmp_path: Path):
    file = tmp_path / "a b.md"
    file.write_text("tides rise")
    assert client.add_document("sea", file).document == "a b.md"
    assert client.add_document("sea", b"tides fall", name="deep/c#1.md").document == "deep/c#1.md"
    assert sorted(platform.documents["sea"]) == ["a b.md", "deep/c#1.md"]
    assert [c.documents for c in client.collections()] == [2]
    assert len(client.documents("sea")) == 2
    assert [p.document for p in client.search_documents("sea", "fall")] == ["deep/c#1.md"]
    with pytest.raises(InvalidInput, match="name"):
        client.add_document("sea", b"nameless")
    with pytest.raises(UnreadableDocument):
        client.add_document("sea", b"\0", name="x.bin")


def test_an_unknown_code_gets_the_class_of_its_status(client):
    with pytest.raises(NotFound) as caught:
        client.run("nope", {})
    assert (caught.value.code, caught.value.fix) == ("unknown_graph", "one of: echo")


def test_graphs_and_readiness(client, platform: PlatformDouble):
    assert "research_report" in [g.name for g in client.graphs()]
    assert client.ready().ready
    platform.ready = False
    readiness = client.ready()
    assert (readiness.ready, readiness.components["coordinator"].state) == (False, "down")


def test_the_key_is_sent_as_a_bearer_token(make, platform: PlatformDouble):
    make(platform.url, api_key="s3cret").ready()
    assert platform.requests[-1][2]["authorization"] == "Bearer s3cret"


def test_the_key_of_the_environment_is_sent_unless_another_is_given(
    make, platform: PlatformDouble, monkeypatch: pytest.MonkeyPatch
):
    make(platform.url).ready()
    assert "authorization" not in platform.requests[-1][2]
    monkeypatch.setenv("MANTA_API_KEY", "mk_mine")
    make(platform.url).ready()
    assert platform.requests[-1][2]["authorization"] == "Bearer mk_mine"
    make(platform.url, api_key="s3cret").ready()
    assert platform.requests[-1][2]["authorization"] == "Bearer s3cret"


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("call", ["ready", "graphs"])
def test_nothing_there(make, call: str):
    with pytest.raises(PlatformError) as caught:
        getattr(make(f"http://127.0.0.1:{_closed_port()}"), call)()
    assert (caught.value.code, caught.value.fix) == ("platform_unreachable", "manta up")


def test_nothing_there_to_stream_or_wait_for(make):
    client = make(f"http://127.0.0.1:{_closed_port()}", patience_s=60)
    for call in (lambda: list(client.stream("x")), lambda: client.wait("x")):
        with pytest.raises(PlatformError) as caught:
            call()
        assert caught.value.code == "platform_unreachable"


@pytest.mark.parametrize(
    "body", ["<html>", "[]", "{}", json.dumps({"run_id": "x", "status": "pending", "created_at": "noon"})]
)
def test_an_answer_that_is_not_mantas(client, platform: PlatformDouble, body: str):
    platform.answer_with = [PlainTextResponse(body)]
    with pytest.raises(PlatformError) as caught:
        client.get("x")
    assert caught.value.code == "unexpected_answer"


def test_an_error_without_a_description_names_its_status(client, platform: PlatformDouble):
    platform.answer_with = [PlainTextResponse("Internal Server Error", 500)]
    with pytest.raises(MantaError, match="HTTP 500"):
        client.get("x")


def test_a_service_that_is_away_is_unavailable(client, platform: PlatformDouble):
    away = {"code": "coordinator_unavailable", "message": "away", "metadata": {}}
    platform.answer_with = [JSONResponse(away, 503), JSONResponse({"code": "busy", "message": "busy"}, 503)]
    with pytest.raises(CoordinatorUnavailable):
        client.graphs()
    with pytest.raises(Unavailable):
        client.graphs()
