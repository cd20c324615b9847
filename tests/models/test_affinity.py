"""Which replica a call prefers, and Serve's router around that: refusals, deadlines, calls that share an id."""

import asyncio
import dataclasses
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
from ray.serve.request_router import PendingRequest, RequestRouter

from manta.errors import Overloaded, RunCancelled
from manta.messages import CallHints, ChatMessage, ChatRequest
from serve_app.models.affinity import PREFIX_CHARS, Place, affinity_key, balanced, preference, ranked
from serve_app.models.request_router import ModelRouter

REPLICAS = [f"replica-{number}" for number in range(8)]
keys = st.binary(min_size=32, max_size=32)


def request(*texts: str, system: str = "", **hints: Any) -> ChatRequest:
    said = [ChatMessage("system", system)] if system else []
    return ChatRequest((*said, *(ChatMessage("user", text) for text in texts)), hints=CallHints(**hints))


def test_a_run_is_one_key_whatever_it_asks():
    assert affinity_key(request("a", run="r")) == affinity_key(request("b", "c", run="r"))
    assert affinity_key(request("a", run="r")) != affinity_key(request("a", run="s"))
    assert affinity_key(request("a", run="r", tenant="x")) != affinity_key(request("a", run="r"))


def test_prompts_that_begin_alike_are_one_key():
    assert affinity_key(request("hi", system="be kind")) == affinity_key(
        request("hi", "more", system="be kind")
    )
    assert affinity_key(request("hi")) != affinity_key(request("ho"))
    assert affinity_key(request("hi")) != affinity_key(request("hi", system="be kind"))
    long = "x" * 2 * PREFIX_CHARS
    assert affinity_key(request("one", system=long)) == affinity_key(request("two", system=long))
    raw = ChatRequest((), prompt="once upon a time")
    assert affinity_key(raw) == affinity_key(dataclasses.replace(raw, temperature=1.0))
    assert affinity_key(ChatRequest((), prompt_ids=(1, 2))) != affinity_key(ChatRequest((), prompt_ids=(12,)))
    assert affinity_key(ChatRequest((), prompt="\ud800")) is not None
    assert affinity_key(ChatRequest(())) is None


@given(keys, st.permutations(REPLICAS))
def test_everyone_comes_to_the_same_order(key: bytes, replicas: list[str]):
    assert ranked(key, replicas) == ranked(key, REPLICAS)


@given(keys, st.sampled_from(REPLICAS))
def test_a_replica_that_goes_takes_only_its_own_keys(key: bytes, gone: str):
    before = ranked(key, REPLICAS)
    after = ranked(key, [replica for replica in REPLICAS if replica != gone])
    assert after == [replica for replica in before if replica != gone]


def test_keys_are_spread():
    owners = Counter(ranked(number.to_bytes(32), REPLICAS)[0] for number in range(4000))
    assert all(400 < owners[replica] < 600 for replica in REPLICAS), owners


@given(keys, st.lists(st.integers(0, 20), min_size=1, max_size=8), st.integers(0, 8))
def test_its_own_comes_first_until_it_is_too_busy(key: bytes, loads: list[int], slack: int):
    places = [Place(f"replica-{number}", load, limit=16) for number, load in enumerate(loads)]
    order = preference(key, places, slack)
    assert sorted(order) == sorted(place.replica for place in places)
    by_name = {place.replica: place for place in places}
    first = by_name[order[0]]
    own = by_name[ranked(key, order)[0]]
    fits = own.load < own.limit and own.load <= min(loads) + slack
    assert (first == own) or not fits
    if min(loads) < 16:
        assert first.load < first.limit
        assert first.load <= min(loads) + slack
    full = [by_name[name].load >= 16 for name in order]
    assert full == sorted(full)


def test_balanced_is_the_least_busy_first():
    places = [Place("a", 3, 9), Place("b", 1, 9), Place("c", 1, 9)]
    assert balanced(places, {"a": 0.0, "b": 0.5, "c": 0.1}) == ["c", "b", "a"]
    assert preference(b"k", [], 4) == []


class Replica:
    """As the router sees one. `busy`: what it says when it is looked at."""

    max_ongoing_requests = 4
    is_cross_language = False

    def __init__(self, name: str, busy: int = 0) -> None:
        self.replica_id = ReplicaID(name, DeploymentID("model", "manta-model-a-v1"))
        self.busy = busy
        self.looks = 0
        self.node_id = self.availability_zone = None

    async def get_queue_len(self, *, deadline_s: float) -> int:
        self.looks += 1
        return self.busy


def pending(asked: ChatRequest, shared: str = "") -> PendingRequest:
    ids = {"request_id": "r", "internal_request_id": shared or str(id(asked))}
    return PendingRequest(args=[asked], kwargs={}, metadata=RequestMetadata(**ids))


@pytest.fixture
def chosen_from(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A router over replicas, without a Ray: its metrics go nowhere."""
    silent = SimpleNamespace(set=lambda *_, **__: None, observe=lambda *_, **__: None)
    silent.set_default_tags = lambda _: silent
    module = "ray.serve._private.request_router.request_router.metrics"
    monkeypatch.setattr(f"{module}.Gauge", lambda *_, **__: silent)
    monkeypatch.setattr(f"{module}.Histogram", lambda *_, **__: silent)

    def make(*replicas: Replica, **kwargs: Any) -> ModelRouter:
        router = ModelRouter(
            DeploymentID("model", "manta-model-a-v1"),
            DeploymentHandleSource.REPLICA,
            use_replica_queue_len_cache=True,
        )
        router.initialize_state(**kwargs)
        router.update_replicas(list(replicas))  # type: ignore[arg-type]
        return router

    return make


async def choose(router: ModelRouter, asked: ChatRequest, shared: str = "") -> str:
    async with asyncio.timeout(10):
        replica = await router._choose_replica_for_request(pending(asked, shared))
    router.on_send_request(replica.replica_id)
    return replica.replica_id.unique_id


async def test_a_run_stays_and_leaves_when_its_replica_is_busy(chosen_from: Any):
    router = chosen_from(*(Replica(name) for name in "abc"), slack=1)
    places = [await choose(router, request(f"call {n}", run="r")) for n in range(4)]
    # Two at home, then the others have their share.
    assert places[0] == places[1]
    assert len(set(places)) > 1


async def test_balanced_goes_to_all(chosen_from: Any):
    router = chosen_from(*(Replica(name) for name in "abc"), affinity=False)
    assert sorted([await choose(router, request("x", run="r")) for _ in range(6)]) == list("aabbcc")


async def test_calls_made_within_one_http_request_are_all_placed(chosen_from: Any):
    router = chosen_from(Replica("a"), Replica("b"))
    calls = [choose(router, request(f"{n}"), shared="one id for all") for n in range(6)]
    assert len(await asyncio.gather(*calls)) == 6


async def test_each_gets_the_replica_that_was_chosen_for_it(chosen_from: Any):
    router = chosen_from(*(Replica(name) for name in "abcd"), slack=100)
    alone = [await choose(router, request("x", run=f"run-{n}")) for n in range(3)]
    together = await asyncio.gather(*(choose(router, request("y", run=f"run-{n}")) for n in range(3)))
    assert together == alone


async def test_a_call_is_refused_when_each_replica_was_seen_to_be_full(chosen_from: Any):
    full = [Replica("a", busy=4), Replica("b", busy=5)]
    router = chosen_from(*full)
    with pytest.raises(Overloaded, match="model a has too many") as refused:
        await choose(router, request("x"))
    assert refused.value.http_status == 429
    assert all(replica.looks for replica in full)
    full[1].busy = 3
    assert await choose(router, request("x")) == "b"


async def test_what_is_known_to_be_full_is_looked_at_once_more(chosen_from: Any):
    only = Replica("a", busy=1)
    router = chosen_from(only)
    router.on_new_queue_len_info(only.replica_id, 4)
    assert await choose(router, request("x")) == "a"


async def test_a_lapsed_call_is_not_sent(chosen_from: Any):
    router = chosen_from(Replica("a"))
    with pytest.raises(RunCancelled):
        await choose(router, request("x", deadline=time.time() - 1))
    assert await choose(router, request("x", deadline=time.time() + 60)) == "a"


async def test_calls_that_wait_for_a_replica_get_it_or_lapse(chosen_from: Any):
    router = chosen_from()
    waiting = asyncio.create_task(choose(router, request("x")))
    late = asyncio.create_task(choose(router, request("x", deadline=time.time() - 1)))
    await asyncio.sleep(0)
    assert not waiting.done()
    router.update_replicas([Replica("a")])  # type: ignore[list-item]
    assert await waiting == "a"
    with pytest.raises(RunCancelled):
        await late


async def test_what_is_no_chat_is_placed_too(chosen_from: Any):
    router = chosen_from(Replica("a"), Replica("b"))
    info = PendingRequest(args=[], kwargs={}, metadata=RequestMetadata("r", "i"))
    assert await router._choose_replica_for_request(info) is not None


def test_ray_still_calls_what_is_overridden():
    for method in (
        "_fulfill_next_pending_request",
        "_record_queue_wait_time",
        "_remove_pending_request_from_indices",
    ):
        assert hasattr(RequestRouter, method)
