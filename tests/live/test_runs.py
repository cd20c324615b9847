"""Runs over HTTP, in the Agent Protocol's shapes, and through both clients."""

import asyncio
import json
import uuid

import httpx
import jsonschema
import pytest

from manta.async_client import AsyncClient
from manta.client import Client
from manta.errors import Conflict, IdempotencyConflict, InvalidInput, NotFound, PlatformError
from manta.wire import Run
from tests.live.conftest import ROOT, LivePlatform, eventually

CAPITAL = "What is the capital of France?"
PARIS = "The capital of France is Paris."
PROTOCOL_FIELDS = {"run_id", "agent_id", "status", "metadata", "input", "created_at", "updated_at"}


def test_the_platform_says_that_it_is_ready(platform: LivePlatform):
    assert httpx.get(f"{platform.url}/healthz").json() == {"status": "ok"}
    # Replicas that another test has killed may still be on their way back.
    eventually(lambda: httpx.get(f"{platform.url}/readyz").status_code == 200, "the platform being ready")
    ready = httpx.get(f"{platform.url}/readyz")
    assert ready.json()["ready"] is True
    assert {"coordinator", "documents", "model smollm2"} <= ready.json()["components"].keys()


def test_create_then_wait(platform: LivePlatform):
    body = {"agent_id": "greet", "input": {"names": ["a", "b"]}, "metadata": {"team": "x"}}
    created = httpx.post(f"{platform.url}/runs", json=body)
    assert created.status_code == 200
    assert created.json().keys() >= PROTOCOL_FIELDS
    run_id = created.json()["run_id"]
    uuid.UUID(run_id)
    waited = httpx.get(f"{platform.url}/runs/{run_id}/wait", timeout=60).json()
    assert waited["run"]["status"] == "success"
    assert waited["values"] == {"output": [{"greeting": "hello a"}, {"greeting": "hello b"}]}
    shown = httpx.get(f"{platform.url}/runs/{run_id}").json()
    assert [(step["key"], step["state"]) for step in shown["steps"]] == [
        ("greet[0]", "done"),
        ("greet[1]", "done"),
    ]
    found = httpx.post(f"{platform.url}/runs/search", json={"metadata": {"team": "x"}}).json()
    assert run_id in [run["run_id"] for run in found]


def test_run_and_wait_in_one_request(platform: LivePlatform):
    body = {"agent_id": "greet", "input": {"names": ["z"]}}
    answer = httpx.post(f"{platform.url}/runs/wait", json=body, timeout=60).json()
    assert answer["values"] == {"output": [{"greeting": "hello z"}]}


def test_agents_are_the_graphs(platform: LivePlatform):
    found = httpx.post(f"{platform.url}/agents/search", json={"limit": 100}).json()
    by_id = {agent["agent_id"]: agent for agent in found}
    assert {"research_report", "greet", "talk"} <= by_id.keys()
    assert by_id["greet"]["capabilities"]["ap.io.streaming"] is True
    schemas = httpx.get(f"{platform.url}/agents/greet/schemas").json()
    assert schemas["input_schema"]["required"] == ["names"]
    assert httpx.get(f"{platform.url}/agents/none").status_code == 404


def test_a_stream_shows_every_event_and_resumes_behind_any(platform: LivePlatform):
    body = {"agent_id": "greet", "input": {"names": ["a", "b", "c"]}}
    run_id = httpx.post(f"{platform.url}/runs/wait", json=body, timeout=60).json()["run"]["run_id"]
    whole = _frames(platform, run_id)
    ids = [int(frame["id"]) for frame in whole if "id" in frame]
    assert ids == list(range(1, len(ids) + 1))
    assert whole[0]["event"] == "metadata"
    assert whole[-1]["event"] == "end"
    assert json.loads(next(f["data"] for f in whole if f["event"] == "values"))["output"][0] == {
        "greeting": "hello a"
    }
    for last in (1, len(ids) // 2, len(ids) - 1):
        rest = _frames(platform, run_id, {"Last-Event-ID": str(last)})
        assert [int(frame["id"]) for frame in rest if "id" in frame] == ids[last:]


def _frames(
    platform: LivePlatform, run_id: str, headers: dict[str, str] | None = None
) -> list[dict[str, str]]:
    text = httpx.get(f"{platform.url}/runs/{run_id}/stream", headers=headers, timeout=60).text
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


def test_tokens_are_streamed_while_a_step_runs(client: Client):
    run = client.submit("talk", {"say": "hi", "calls": 1, "tokens": 40})
    texts, ended_before_first_token = [], None
    for event in client.stream(run.id):
        if event.type == "token":
            if ended_before_first_token is None:
                ended_before_first_token = client.get(run.id).done
            texts.append(event.data["text"])
    assert ended_before_first_token is False
    assert "word0" in "".join(texts)
    assert len(texts) > 3


def test_cancel_reaches_the_engine(platform: LivePlatform, client: Client):
    run = client.submit("talk", {"say": "long", "calls": 1, "tokens": 100_000})
    eventually(lambda: platform.notes("model_call", run.id), "the model call")
    client.cancel(run.id, wait=True)
    ended = client.get(run.id)
    assert (ended.status, ended.reason) == ("interrupted", "cancelled")
    eventually(lambda: _running(platform, "slow") == 0, "the engine's slot being free")
    client.cancel(run.id)
    with pytest.raises(Conflict):
        client.cancel(client.run("greet", {"names": ["x"]}).run.id)


def _running(platform: LivePlatform, model: str) -> int:
    return sum(replica["running"] for replica in httpx.get(f"{platform.url}/models/{model}/replicas").json())


def test_a_client_that_leaves_a_waiting_run_can_cancel_it(platform: LivePlatform, client: Client):
    body = {
        "agent_id": "talk",
        "input": {"say": "x", "calls": 1, "tokens": 100_000},
        "on_disconnect": "cancel",
        "metadata": {"who": "leaver"},
    }
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{platform.url}/runs/wait", json=body, timeout=3)

    def statuses() -> list[str]:
        return [run.status for run in client.list() if run.metadata == {"who": "leaver"}]

    # It may have been on its way only when its client left.
    eventually(lambda: statuses() == ["interrupted"], "the run being cancelled")


def test_the_same_key_is_one_run(client: Client):
    runs = [client.submit("greet", {"names": ["k"]}, idempotency_key="key-1") for _ in range(5)]
    assert len({run.id for run in runs}) == 1
    with pytest.raises(IdempotencyConflict):
        client.submit("greet", {"names": ["other"]}, idempotency_key="key-1")


def test_refusals_say_why(platform: LivePlatform, client: Client):
    with pytest.raises(NotFound, match="no graph 'nope'") as unknown:
        client.submit("nope", {})
    assert "research_report" in unknown.value.fix
    with pytest.raises(InvalidInput, match="names"):
        client.submit("greet", {})
    with pytest.raises(NotFound):
        client.get(str(uuid.uuid4()))
    with pytest.raises(PlatformError, match="manta up"):
        Client("http://127.0.0.1:9").get("x")
    headers = {"content-type": "application/json"}
    assert httpx.post(f"{platform.url}/runs", content="{", headers=headers).status_code == 400
    assert httpx.post(f"{platform.url}/runs", content="{}").status_code == 415
    assert httpx.get(f"{platform.url}/nope").json()["code"] == "not_found"


async def test_the_async_client_runs_streams_and_lists(platform: LivePlatform):
    async with AsyncClient(platform.url) as client:
        results = await asyncio.gather(*(client.run("greet", {"names": [str(n)]}) for n in range(8)))
        assert [r.output["output"][0]["greeting"] for r in results] == [f"hello {n}" for n in range(8)]
        kinds = [event.type async for event in client.stream(results[0].run.id)]
        assert kinds[0] == "run_started"
        assert kinds[-1] == "run_done"
        listed: list[Run] = list(await client.list(limit=3))
        assert len(listed) == 3
        assert (await client.chat(CAPITAL, model="smollm2", temperature=0)).text == PARIS


def test_the_client_chats_with_the_real_model(client: Client):
    assert client.chat(CAPITAL, model="smollm2", temperature=0).text == PARIS
    pieces = list(client.chat(CAPITAL, model="smollm2", stream=True, temperature=0))
    assert len(pieces) > 1
    assert "".join(pieces) == PARIS


async def test_the_async_client_gets_and_cancels(platform: LivePlatform):
    async with AsyncClient(platform.url) as client:
        run = await client.submit("talk", {"say": "x", "calls": 1, "tokens": 100_000})
        assert (await client.get(run.id)).graph == "talk"
        await client.cancel(run.id, wait=True)
        assert (await client.get(run.id)).status == "interrupted"


def test_a_run_outlives_its_client_unless_told_otherwise(platform: LivePlatform, client: Client):
    body = {"agent_id": "talk", "input": {"say": "x", "calls": 1, "tokens": 60}, "metadata": {"who": "gone"}}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{platform.url}/runs/wait", json=body, timeout=1)
    run = next(run for run in client.list() if run.metadata == {"who": "gone"})
    assert client.wait(run.id, timeout=60).run.status == "success"


def test_cancel_reaches_the_torch_engine(platform: LivePlatform):
    """A client that leaves in mid-answer frees the slot of the real model."""
    question = {"role": "user", "content": "Tell a very long story about the sea."}
    body = {"model": "smollm2", "messages": [question], "max_tokens": 2000, "stream": True}
    with httpx.stream("POST", f"{platform.url}/v1/chat/completions", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        while "content" not in next(lines):
            pass
        assert _running(platform, "smollm2") == 1
    eventually(lambda: _running(platform, "smollm2") == 0, "the slot being free", 30)


def test_a_pool_gets_the_custom_resource_it_asks_for(client: Client):
    assert client.run("placed", {}).output == {"output": "here"}


SPEC = ROOT.parent / "shared/specs/agent-protocol-0.1.6.openapi.json"


@pytest.mark.skipif(not SPEC.exists(), reason="the Agent Protocol's OpenAPI file is not beside this checkout")
def test_answers_fit_the_protocols_own_schemas(platform: LivePlatform):
    def check(name: str, value: object) -> None:
        spec = json.loads(SPEC.read_text())
        schema = {"$ref": f"#/components/schemas/{name}", "components": spec["components"]}
        jsonschema.Draft202012Validator(schema).validate(value)

    body = {"agent_id": "greet", "input": {"names": ["p"]}}
    run = httpx.post(f"{platform.url}/runs", json=body).json()
    check("Run", run)
    check("RunWaitResponse", httpx.get(f"{platform.url}/runs/{run['run_id']}/wait", timeout=60).json())
    for found in httpx.post(f"{platform.url}/runs/search", json={}).json():
        check("Run", found)
    for agent in httpx.post(f"{platform.url}/agents/search", json={}).json():
        check("Agent", agent)
    check("AgentSchema", httpx.get(f"{platform.url}/agents/greet/schemas").json())
    check("ErrorResponse", httpx.post(f"{platform.url}/runs", json={"agent_id": "nope"}).json())
    check("ErrorResponse", httpx.get(f"{platform.url}/runs/nope").json())
