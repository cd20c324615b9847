"""What a key may take: requests and tokens a minute, runs at a time, tokens and money a day and a month."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator.store.key_meters import day_of
from coordinator.store.key_records import KeyLimits, Meter, NewKey, Spent
from manta.messages import ChatChunk, ChatRequest, ModelInfo
from manta.usage import Price
from serve_app.gateway.access.metered import UNBOUNDED_TOKENS, expected_usage
from serve_app.openai_wire import message_from_wire
from tests.gateway.keys_support import CHAT, Guarded, guarded
from tests.gateway.openai_support import ADD, SaysChunks, text
from tests.gateway.platform import Visitor
from tests.waiting import eventually

PROMPT = 6
"""What `CHAT` is taken for, in tokens; in truth a call uses 3 and 2."""


class Priced(SaysChunks):
    async def info(self) -> ModelInfo:
        return ModelInfo("priced", 4096, price=Price(1e6, 1e6))


SAYS = SaysChunks(*text("hello"))


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[Guarded]:
    models: dict[str, Any] = {"says": SAYS, "priced": Priced(*text("hello"))}
    async with guarded(tmp_path, models) as made:
        yield made


def refused(answer: httpx.Response, code: str) -> int:
    """Checks a 429; seconds after which to come back."""
    body = answer.json()
    assert (answer.status_code, body.get("error", body)["code"]) == (429, code), answer.text
    return int(answer.headers["retry-after"])


def test_what_a_call_may_use_is_told_by_its_request():
    message = message_from_wire(CHAT["messages"][0])
    assert expected_usage(ChatRequest((message,), max_tokens=10)).input_tokens == PROMPT
    assert expected_usage(ChatRequest((message,), max_tokens=10, n=3)).output_tokens == 30
    assert expected_usage(ChatRequest((message,))).output_tokens == UNBOUNDED_TOKENS
    assert expected_usage(ChatRequest((), prompt="x" * 40)).input_tokens == 11
    assert expected_usage(ChatRequest((), prompt_ids=(1, 2, 3))).input_tokens == 3


async def test_requests_a_minute(gate: Guarded):
    key = await gate.key(limits=KeyLimits(requests_per_minute=2))
    first = await gate.ask(key, "GET", "/graphs")
    limits = {k: v for k, v in first.headers.items() if k.startswith("x-ratelimit")}
    assert limits == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "30s",
    }
    assert (await gate.ask(key, "GET", "/nowhere")).status_code == 403
    assert (await gate.ask(key, "GET", "/graphs")).status_code == 200
    over = await gate.ask(key, "GET", "/graphs")
    assert refused(over, "rate_limited") == 30
    assert over.headers["x-ratelimit-remaining-requests"] == "0"
    await gate.clock.advance(29)
    assert refused(await gate.ask(key, "POST", "/v1/embeddings", json={}), "rate_limited") == 1
    await gate.clock.advance(1)
    assert (await gate.ask(key, "GET", "/graphs")).status_code == 200


async def test_keys_have_buckets_of_their_own(gate: Guarded):
    limits = KeyLimits(requests_per_minute=1)
    for name in ("ann", "bob"):
        key = await gate.key(name, limits=limits)
        assert (await gate.ask(key, "GET", "/graphs")).status_code == 200
        refused(await gate.ask(key, "GET", "/graphs"), "rate_limited")


async def test_a_key_without_limits_is_told_none(gate: Guarded):
    answer = await gate.chat(await gate.key())
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


async def test_tokens_a_minute_are_reserved_and_settled(gate: Guarded):
    key = await gate.key(limits=KeyLimits(tokens_per_minute=60))
    answer = await gate.chat(key, max_tokens=50)
    # Told when the answer begins: whole answers are settled by then.
    assert (answer.status_code, answer.headers["x-ratelimit-remaining-tokens"]) == (200, "55")
    streamed = await gate.chat(key, max_tokens=40, stream=True)
    assert streamed.headers["x-ratelimit-remaining-tokens"] == str(55 - 40 - PROMPT)
    wait = refused(await gate.chat(key, max_tokens=50), "rate_limited")
    # 56 are asked for and 50 there: 6 seconds at one a second.
    assert wait == 6
    await gate.clock.advance(6)
    assert (await gate.chat(key, max_tokens=50)).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_what_never_fits_is_refused_before_the_model_is_asked(gate: Guarded, stream: bool):
    key = await gate.key(limits=KeyLimits(tokens_per_minute=60))
    asked = len(SAYS.requests)
    refused(await gate.chat(key, max_tokens=55, stream=stream), "rate_limited")
    refused(await gate.chat(key, stream=stream), "rate_limited")
    refused(await gate.chat(key, max_tokens=30, tools=[ADD], stream=stream), "rate_limited")
    assert len(SAYS.requests) == asked


async def test_all_routes_of_models_are_counted(gate: Guarded):
    for path, body, tokens in (
        ("/v1/completions", {"prompt": ["hello", "there"], "max_tokens": 5}, 10),
        ("/v1/responses", {"input": "hello", "max_output_tokens": 5}, 5),
        ("/v1/embeddings", {"input": ["two words", "three words more"]}, 5),
    ):
        key = await gate.key(path.replace("/", "-"), limits=KeyLimits(tokens_per_minute=600))
        answer = await gate.ask(key, "POST", path, json=body)
        assert answer.status_code == 200, answer.text
        after = await gate.ask(key, "GET", "/v1/models")
        assert after.headers["x-ratelimit-remaining-tokens"] == str(600 - tokens), path


async def test_a_call_that_fails_costs_nothing_and_one_that_is_left_costs_what_came(tmp_path: Path):
    gate_open = asyncio.Event()
    pieces = (ChatChunk("x" * 40), *text("never"))
    models: dict[str, Any] = {"slow": SaysChunks(*pieces, gate=gate_open), "silent": SaysChunks()}
    async with guarded(tmp_path, models) as gate:
        key = await gate.key(limits=KeyLimits(tokens_per_minute=600))
        assert (await gate.chat(key, model="silent", max_tokens=100)).status_code == 502
        after = await gate.ask(key, "GET", "/v1/models")
        assert after.headers["x-ratelimit-remaining-tokens"] == "600"
        body = {**CHAT, "model": "slow", "max_tokens": 100, "stream": True}
        visitor = Visitor(
            gate.local.api, "/v1/chat/completions", body, headers={"authorization": f"Bearer {key.text}"}
        )
        await visitor.see("xxx")
        during = await gate.ask(key, "GET", "/v1/models")
        assert during.headers["x-ratelimit-remaining-tokens"] == str(600 - 100 - PROMPT)
        await visitor.leave()
        after = await gate.ask(key, "GET", "/v1/models")
        assert after.headers["x-ratelimit-remaining-tokens"] == str(600 - PROMPT - 10)


async def test_a_days_tokens(gate: Guarded):
    key = await gate.key(limits=KeyLimits(tokens_per_day=20))
    for _ in range(2):
        assert (await gate.chat(key, max_tokens=4)).status_code == 200
    # 10 of 20 are used.
    wait = refused(await gate.chat(key, max_tokens=5), "budget_exceeded")
    assert 0 < wait <= 86400
    assert (await gate.chat(key, max_tokens=4)).status_code == 200
    await gate.clock.advance(wait)
    assert (await gate.chat(key, max_tokens=10)).status_code == 200


async def test_a_months_money_counts_calls_in_flight(tmp_path: Path):
    # A token costs 1.
    going_on = asyncio.Event()
    slow = Priced(ChatChunk("x"), *text("y"), gate=going_on)
    async with guarded(tmp_path, {"priced": Priced(*text("hello")), "slow": slow, "says": SAYS}) as gate:
        key = await gate.key(limits=KeyLimits(money_per_month=30))
        assert (await gate.chat(key, model="priced", max_tokens=24)).status_code == 200
        refused(await gate.chat(key, model="priced", max_tokens=24), "budget_exceeded")
        assert (await gate.chat(key, model="says", max_tokens=24)).status_code == 200
        first = asyncio.create_task(gate.chat(key, model="slow", max_tokens=14))
        await eventually(lambda: slow.requests, "the first call is at work")
        refused(await gate.chat(key, model="priced", max_tokens=14), "budget_exceeded")
        going_on.set()
        assert (await first).status_code == 200
        assert (await gate.chat(key, model="priced", max_tokens=14)).status_code == 200


async def test_a_budget_outlives_the_gateway(gate: Guarded, tmp_path: Path):
    key = await gate.key(limits=KeyLimits(tokens_per_month=20))
    assert (await gate.chat(key, max_tokens=4)).status_code == 200
    journal = gate.local.service.journal
    await gate.told(key, lambda usage: usage[1].spent == Spent(5))
    on_file = await journal.keys.find(key.record.id, "another gateway")
    assert on_file is not None
    assert on_file.this_month == Spent(5)


async def run(gate: Guarded, key: NewKey, graph: str = "hold", **body: Any) -> httpx.Response:
    return await gate.ask(key, "POST", "/runs", json={"agent_id": graph, **body})


async def test_runs_at_a_time(gate: Guarded):
    key = await gate.key(limits=KeyLimits(concurrent_runs=2))
    answers = await asyncio.gather(*(run(gate, key) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429]
    for answer in answers:
        if answer.status_code == 429:
            assert refused(answer, "rate_limited") > 0
    refused(await gate.chat(key, model="manta/chat"), "rate_limited")
    free = await gate.key("bob")
    assert (await run(gate, free)).status_code == 200
    gate.local.release.set()
    for answer in answers:
        if answer.status_code == 200:
            await gate.ask(key, "GET", f"/runs/{answer.json()['run_id']}/wait")
    assert (await run(gate, key, "echo")).status_code == 200


async def test_a_run_gets_what_the_key_has_left(gate: Guarded):
    key = await gate.key(limits=KeyLimits(tokens_per_day=100, money_per_month=5))
    assert (await gate.chat(key, max_tokens=4)).status_code == 200
    made = (await run(gate, key, "echo", budget={"tokens": 1000, "model_calls": 3})).json()
    told = (await gate.ask(key, "GET", f"/runs/{made['run_id']}")).json()["budget"]
    assert (told["tokens"], told["model_calls"], told["money"]) == (95, 3, 5)


async def test_the_same_request_is_the_same_run_whatever_is_left(gate: Guarded):
    key = await gate.key(limits=KeyLimits(tokens_per_day=100))
    once = {"json": {"agent_id": "echo", "input": 1}, "headers": {"Idempotency-Key": "once"}}
    first = (await gate.ask(key, "POST", "/runs", **once)).json()
    assert (await gate.chat(key, max_tokens=4)).status_code == 200
    assert (await gate.ask(key, "POST", "/runs", **once)).json()["run_id"] == first["run_id"]


async def test_without_budget_no_run_begins(gate: Guarded):
    key = await gate.key(limits=KeyLimits(tokens_per_day=5))
    assert (await gate.chat(key, model="says", max_tokens=1)).status_code == 429
    journal = gate.local.service.journal
    meter = Meter(key.record.tenant, "ann", day_of(gate.clock.now()), 1, Spent(5))
    await journal.keys.record("another gateway", [meter], {})
    await gate.later()
    refused(await run(gate, key, "echo"), "budget_exceeded")


async def test_accounts_of_many_keys_are_bounded(gate: Guarded, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serve_app.gateway.access.accounts.KEPT", 2)
    monkeypatch.setattr("serve_app.gateway.access.keyring.KEPT", 2)
    limits = KeyLimits(requests_per_minute=1)
    keys = [await gate.key(f"k{n}", limits=limits) for n in range(4)]
    for key in keys:
        assert (await gate.ask(key, "GET", "/graphs")).status_code == 200
    refused(await gate.ask(keys[-1], "GET", "/graphs"), "rate_limited")
