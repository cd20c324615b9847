"""Batches over a whole platform: each request gets the answer of its route or says why it got none."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from manta.errors import ModelError
from serve_app.gateway.openai.batches import PRIORITY
from tests.gateway.batch_support import (
    BATCHES,
    CHAT,
    Repeats,
    begun,
    jsonl,
    line,
    over,
    results,
    said,
    uploaded,
)
from tests.gateway.openai_support import client
from tests.gateway.platform import Local
from tests.gateway.working import working
from tests.waiting import eventually


@pytest.fixture
async def repeating(tmp_path: Path) -> AsyncIterator[tuple[Local, Repeats]]:
    model = Repeats()
    async with working(tmp_path, {"says": model}) as local:
        yield local, model


async def test_openais_client_sends_one_and_reads_it(repeating):
    local, model = repeating
    api = client(local)
    content = jsonl(*(line(f"r{n}", f"text {n}", model="says", max_tokens=9) for n in range(40)))
    file = await api.files.create(file=("requests.jsonl", content), purpose="batch")
    made = await api.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"a": "b"}
    )
    assert made.status in ("validating", "in_progress")
    await over(local, made.to_dict())
    done = await api.batches.retrieve(made.id)
    assert (done.status, done.errors, done.error_file_id) == ("completed", None, None)
    assert done.request_counts is not None
    assert done.request_counts.to_dict() == {"total": 40, "completed": 40, "failed": 0}
    assert (done.input_file_id, done.metadata) == (file.id, {"a": "b"})
    assert (
        done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at <= done.expires_at
    )
    assert done.usage is not None
    assert done.usage.output_tokens == 80
    found = await results(local, done.output_file_id)
    for n in range(40):
        response = found[f"r{n}"]["response"]
        assert (response["status_code"], found[f"r{n}"]["error"]) == (200, None)
        assert response["body"]["choices"][0]["message"]["content"] == f"text {n}"
        assert (response["body"]["object"], response["body"]["model"]) == ("chat.completion", "says")
    assert {request.max_tokens for request in model.requests} == {9}
    assert {request.hints.priority for request in model.requests} == {PRIORITY}
    assert [batch async for batch in api.batches.list()] == [done]


async def test_each_line_is_answered_as_its_route_would(repeating):
    local, _ = repeating
    bad: list[dict[str, Any]] = [
        {"messages": []},
        {"temperature": 9},
        {"unheard_of": 1},
        {"model": "none"},
        {"model": "manta/echo"},
        {"stream": True},
        {"tools": [{"type": "web_search"}]},
        {"manta": {}},
    ]
    content = jsonl(line("good", n=2), *(line(f"bad{n}", **body) for n, body in enumerate(bad)))
    done = await over(local, await begun(local, content))
    assert done["status"] == "completed"
    assert done["request_counts"] == {"total": 9, "completed": 1, "failed": 8}
    good = (await results(local, done["output_file_id"]))["good"]["response"]["body"]
    assert [choice["message"]["content"] for choice in good["choices"]] == ["hello"] * 2
    found = await results(local, done["error_file_id"])
    for n, body in enumerate(bad):
        told = found[f"bad{n}"]["response"]
        assert (told["status_code"], found[f"bad{n}"]["error"]) == (404 if n == 3 else 400, None)
        if n not in (4, 5, 7):
            asked = {"messages": [{"role": "user", "content": "hello"}], **body}
            assert told["body"] == (await local.http.post(CHAT, json=asked)).json(), body


@pytest.mark.parametrize(
    ("endpoint", "body", "kind"),
    [
        ("/v1/completions", {"prompt": ["one", "two"], "echo": False}, "text_completion"),
        ("/v1/responses", {"input": "one", "instructions": "be brief"}, "response"),
    ],
)
async def test_other_endpoints(repeating, endpoint: str, body: dict[str, Any], kind: str):
    local, _ = repeating
    told = {"custom_id": "a", "method": "POST", "url": endpoint, "body": body}
    stored = {**told, "custom_id": "b", "body": {**body, "background": True}}
    done = await over(local, await begun(local, jsonl(told, stored), endpoint))
    answer = (await results(local, done["output_file_id"]))["a"]["response"]["body"]
    assert answer["object"] == kind
    texts = [choice["text"] for choice in answer["choices"]] if "choices" in answer else None
    assert texts == ["one", "two"] or answer["output"][0]["content"][0]["text"] == "one"
    assert (await results(local, done["error_file_id"]))["b"]["response"]["status_code"] == 400


async def test_a_file_that_cannot_be_read_fails_the_batch_and_asks_nobody(repeating):
    local, model = repeating
    content = jsonl(
        line("a"), "{", line("a"), "", line("c", url="/v1/responses"), {**line("d"), "method": "GET"}
    )
    done = await over(local, await begun(local, content))
    assert (done["status"], done["output_file_id"], done["error_file_id"]) == ("failed", None, None)
    told = [(error["code"], error["line"]) for error in done["errors"]["data"]]
    assert told == [
        ("invalid_json_line", 2),
        ("duplicate_custom_id", 3),
        ("invalid_url", 5),
        ("invalid_method", 6),
    ]
    assert done["failed_at"] is not None
    assert (await local.json("GET", BATCHES))["data"] == [done]
    assert not model.requests


async def test_a_file_that_is_gone_fails_the_batch(repeating, tmp_path: Path):
    local, _ = repeating
    file = await uploaded(local, jsonl(line("a")))
    (artifact,) = (tmp_path / "artifacts").glob("??/??/*")
    artifact.unlink()
    body = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
    done = await over(local, await local.json("POST", BATCHES, json=body))
    assert done["status"] == "failed"
    assert "not stored" in done["errors"]["data"][0]["message"]


async def test_a_cancel_keeps_what_is_answered(repeating):
    local, model = repeating
    gate = asyncio.Event()

    async def hold(request: Any) -> None:
        if said(request) == "slow":
            await gate.wait()

    model.before = hold
    lines = [line(f"r{n}", "slow" if n >= 32 else "quick") for n in range(32 * 4)]
    made = await begun(local, jsonl(*lines))

    async def counted() -> bool:
        told = await local.json("GET", f"{BATCHES}/{made['id']}")
        return told["status"] == "in_progress" and told["request_counts"]["completed"] == 32

    await eventually(counted, "the first part being answered")
    told = await local.json("POST", f"{BATCHES}/{made['id']}/cancel")
    assert told["status"] in ("cancelling", "cancelled")
    done = await over(local, made)
    assert (done["status"], done["request_counts"]) == (
        "cancelled",
        {"total": 128, "completed": 32, "failed": 96},
    )
    assert len(await results(local, done["output_file_id"])) == 32
    (listed,) = (await local.json("GET", BATCHES))["data"]
    assert listed == done
    left = await results(local, done["error_file_id"])
    assert {(one["response"], one["error"]["code"]) for one in left.values()} == {(None, "batch_cancelled")}
    assert (await local.json("POST", f"{BATCHES}/{made['id']}/cancel"))["status"] == "cancelled"
    assert model.running == 0


async def test_one_that_is_over_cannot_be_cancelled(repeating):
    done = await over(repeating[0], await begun(repeating[0], jsonl(line("a"))))
    error = (await repeating[0].json("POST", f"{BATCHES}/{done['id']}/cancel", 409))["error"]
    assert error["code"] == "run_terminal"


async def test_past_its_window_it_is_expired_with_what_was_done(repeating, monkeypatch):
    local, model = repeating
    gate, asked = asyncio.Event(), asyncio.Event()

    async def hold(request: Any) -> None:
        if said(request) == "slow":
            asked.set()
            await gate.wait()

    model.before = hold
    # The window ends one second from now, and the run's deadline comes as long behind it as ever.
    monkeypatch.setattr("serve_app.gateway.openai.batches.HOUR_S", 1.0)
    made = await begun(local, jsonl(line("a", "quick"), line("b", "slow")), completion_window="1h")
    done = await over(local, made)
    assert done["status"] == "expired"
    assert done["expired_at"] >= done["expires_at"]
    found = await results(local, done["error_file_id"])
    assert found["b"]["error"]["code"] == "batch_expired"
    assert (await local.json("GET", BATCHES))["data"] == [done]


async def test_parts_that_are_done_are_not_done_again(tmp_path: Path):
    model, gate = Repeats(), asyncio.Event()

    async def hold(request: Any) -> None:
        if said(request) == "slow":
            await gate.wait()

    model.before = hold
    async with working(tmp_path, {"says": model}) as local:
        lines = [line(f"r{n}", "slow" if n == 40 else f"text {n}") for n in range(64)]
        made = await begun(local, jsonl(*lines))

        async def all_but_one() -> bool:
            calls = await local.json("GET", f"/runs/{made['id'].removeprefix('batch_')}/calls")
            return sum(call["state"] == "done" for call in calls) == 63

        await eventually(all_but_one, "all requests but one being answered")
    model.before = None
    async with working(tmp_path, {"says": model}) as local:
        done = await over(local, made)
        assert done["request_counts"] == {"total": 64, "completed": 64, "failed": 0}
        found = await results(local, done["output_file_id"])
        assert found["r7"]["response"]["body"]["choices"][0]["message"]["content"] == "text 7"
        # What had been asked was answered from the record, in a part that was not done too.
        assert len(model.requests) == 65


async def test_a_batch_does_not_take_every_place(repeating):
    local, model = repeating
    await over(local, await begun(local, jsonl(*(line(f"r{n}") for n in range(200)))))
    assert 1 < model.most <= 16
    assert {task.agent for task in local.runtime.tasks} == {"background"}


async def test_what_passes_is_tried_again(repeating, monkeypatch):
    local, model = repeating
    # Those of the record, and those of the batch; nobody waits between them.
    monkeypatch.setattr("serve_app.gateway.openai.batch_work.MAX_PAUSE_S", 0.0)
    monkeypatch.setattr("agents.recorded_model.RetryPolicy.delay", lambda *_: 0.0)
    left = {"a": 5}

    def fail(request: Any) -> None:
        error = ModelError("not now", fix="later")
        if said(request) == "b":
            error.retryable = False
            raise error
        left["a"] -= 1
        if left["a"] >= 0:
            raise error

    model.before = fail
    done = await over(local, await begun(local, jsonl(line("a", "a"), line("b", "b"))))
    assert done["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert (await results(local, done["error_file_id"]))["b"]["response"]["status_code"] == 502
    assert len(model.requests) == 6 + 1
