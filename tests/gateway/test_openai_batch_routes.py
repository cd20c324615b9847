"""The routes of batches: whose they are, how they are paged, what they refuse, and when their files go."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from coordinator.store.key_records import KeyLimits
from serve_app.gateway.hidden_graphs import BATCH_GRAPH
from tests.gateway.batch_support import BATCHES, CHAT, Repeats, begun, jsonl, line, over, uploaded
from tests.gateway.openai_support import client
from tests.gateway.platform import Local
from tests.gateway.working import guarded_work, working


@pytest.fixture
async def repeating(tmp_path: Path) -> AsyncIterator[tuple[Local, Repeats]]:
    model = Repeats()
    async with working(tmp_path, {"says": model}) as local:
        yield local, model


async def test_a_keys_budget_ends_it(tmp_path: Path):
    model = Repeats()
    async with guarded_work(tmp_path, {"says": model}) as platform:
        key = await platform.key("ann", limits=KeyLimits(tokens_per_day=60))
        form = {"files": {"file": ("a.jsonl", jsonl(*(line(f"r{n}", max_tokens=2) for n in range(100))))}}
        file = (await platform.ask(key, "POST", "/v1/files", data={"purpose": "batch"}, **form)).json()
        body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
        made = (await platform.ask(key, "POST", BATCHES, json=body)).json()
        await platform.ask(key, "GET", f"/runs/{made['id'].removeprefix('batch_')}/wait")
        done = (await platform.ask(key, "GET", f"{BATCHES}/{made['id']}")).json()
        assert done["status"] == "completed"
        assert done["request_counts"]["failed"] == 100
        told = await platform.ask(key, "GET", f"/v1/files/{done['error_file_id']}/content")
        assert {json.loads(one)["error"]["code"] for one in told.text.splitlines()} == {"budget_exceeded"}
        assert len(model.requests) < 60
        other = await platform.key("bob", tenant="rival")
        for method, path in (("GET", ""), ("POST", "/cancel")):
            assert (await platform.ask(other, method, f"{BATCHES}/{made['id']}{path}")).status_code == 404
        assert (await platform.ask(other, "GET", f"/v1/files/{done['error_file_id']}")).status_code == 404
        assert (await platform.ask(other, "GET", BATCHES)).json()["data"] == []


async def test_batches_are_paged(repeating):
    local, _ = repeating
    file = await uploaded(local, jsonl(line("a")))
    body = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
    headers = {"Idempotency-Key": "once"}
    made = [await local.json("POST", BATCHES, json=body, headers=headers) for _ in range(2)]
    assert made[0]["id"] == made[1]["id"]
    ids = [made[0]["id"], *[(await local.json("POST", BATCHES, json=body))["id"] for _ in range(2)]][::-1]
    first = await local.json("GET", f"{BATCHES}?limit=2")
    assert ([one["id"] for one in first["data"]], first["has_more"]) == (ids[:2], True)
    rest = await local.json("GET", f"{BATCHES}?limit=2&after={first['last_id']}")
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (ids[2:], False)
    await local.json("GET", f"{BATCHES}?after=batch_none", 400)
    (run, *_) = await local.json("POST", "/runs/search", json={"agent_id": BATCH_GRAPH})
    assert f"batch_{run['run_id']}" == ids[0]


async def test_what_is_no_batch_is_refused(repeating):
    local, _ = repeating
    body = {"input_file_id": await uploaded(local, b"{}"), "endpoint": CHAT, "completion_window": "24h"}
    for change, param in (
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"completion_window": "1d"}, "completion_window"),
        ({"completion_window": "169h"}, "completion_window"),
        ({"output_expires_after": {"seconds": 3600}}, "output_expires_after"),
        ({"metadata": {"a": 1}}, "metadata.a"),
    ):
        assert (await local.json("POST", BATCHES, 400, json={**body, **change}))["error"]["param"] == param
    run = (await local.json("POST", "/runs/wait", json={"agent_id": "echo", "input": 1}))["run"]["run_id"]
    for wrong in ("batch_1", f"batch_{run}"):
        await local.json("GET", f"{BATCHES}/{wrong}", 404)
        await local.json("POST", f"{BATCHES}/{wrong}/cancel", 404)
    with pytest.raises(openai.NotFoundError):
        await client(local).files.content(f"file-{run}-output")


async def test_a_results_file_goes_with_its_run(repeating):
    local, _ = repeating
    done = await over(local, await begun(local, jsonl(line("a"))))
    await local.json("DELETE", f"/v1/files/{done['output_file_id']}", 400)
    await local.json("DELETE", f"/runs/{done['id'].removeprefix('batch_')}", 204)
    await local.json("GET", f"/v1/files/{done['output_file_id']}/content", 404)
    await local.json("GET", f"{BATCHES}/{done['id']}", 404)
