"""The level that gateways and agents share: what one has kept another gives, and its death is only a miss."""

import asyncio
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.exceptions

from manta.clock import ManualClock
from manta.config import CacheSettings
from serve_app.models.cache import shared as shared_module
from serve_app.models.cache.actor import CacheActor, RayAnswers, actor_options, start_cache
from serve_app.models.cache.shared import LOOK_S, PAUSE_S
from serve_app.models.cache.shelf import Kept
from tests.models.cache_support import (
    NOT_THERE,
    Counting,
    InOneProcess,
    MadeUp,
    caching,
    chunks_of,
    question,
)
from tests.waiting import eventually

SHARED = CacheSettings(exact=True, shared=True, ttl_s=60)


async def test_what_one_process_kept_another_gives_for_as_long_as_it_had_left():
    clock, inner = ManualClock(), Counting()
    level = InOneProcess(clock)
    one, other = (caching(inner, SHARED, clock=clock, shared=level) for _ in range(2))
    await chunks_of(one, question())
    await clock.advance(40)
    (hit,) = await chunks_of(other, question())
    assert (hit.text, len(inner.asked)) == ("The tide is high.", 1)
    assert other.stats()["exact"] == {"hits": 1, "misses": 0, "shared_hits": 1}
    assert other.stats()["kept"] == 0, "it was not kept of an answer here"
    looks = level.looks
    await chunks_of(other, question())
    assert level.looks == looks, "now it is in the first level"
    await clock.advance(20)
    await chunks_of(other, question())
    assert len(inner.asked) == 2


async def test_tenants_share_nothing():
    inner, clock = Counting(), ManualClock()
    level = InOneProcess(clock)
    one, other = (caching(inner, SHARED, clock=clock, shared=level) for _ in range(2))
    await chunks_of(one, question(tenant="ann"))
    await chunks_of(other, question(tenant="bob"))
    assert len(inner.asked) == 2


async def test_a_model_that_does_not_share_does_not_look_there():
    level = InOneProcess(ManualClock())
    model = caching(Counting(), CacheSettings(exact=True), shared=level)
    await chunks_of(model, question())
    assert level.looks == 0
    assert model.stats()["shared_failures"] == 0


async def test_one_that_is_dead_is_a_miss_and_left_in_peace_for_a_while(caplog: pytest.LogCaptureFixture):
    clock, inner = ManualClock(), Counting()
    level = InOneProcess(clock)
    model = caching(inner, SHARED, clock=clock, shared=level)
    level.trouble = NOT_THERE
    for number in range(5):
        await chunks_of(model, question(str(number)))
    assert (len(inner.asked), level.looks) == (5, 1)
    assert model.stats()["shared_failures"] == 1
    (hit,) = await chunks_of(model, question("0"))
    assert hit.text == "The tide is high.", "the first level goes on"
    await clock.advance(PAUSE_S)
    level.trouble = None
    await chunks_of(model, question("5"))
    assert (level.looks, model.stats()["shared_failures"]) == (2, 1)
    level.trouble = NOT_THERE
    await chunks_of(model, question("6"))
    assert model.stats()["shared_failures"] == 2, "it died between the look and the telling"


async def test_one_that_is_silent_costs_a_moment(monkeypatch: pytest.MonkeyPatch):
    assert LOOK_S == 0.05
    monkeypatch.setattr(shared_module, "LOOK_S", 0.001)
    clock, inner = ManualClock(), Counting()
    level = InOneProcess(clock)
    level.silent = True
    model = caching(inner, SHARED, clock=clock, shared=level)
    await chunks_of(model, question())
    await chunks_of(model, question("another"))
    assert (len(inner.asked), level.looks, model.stats()["shared_failures"]) == (2, 1, 1)


async def test_a_caller_that_leaves_while_it_is_looked_there_is_gone():
    level = InOneProcess(ManualClock())
    level.silent = True
    model = caching(Counting(), SHARED, shared=level)
    call = asyncio.create_task(chunks_of(model, question()))
    await eventually(lambda: level.looks, "a look")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert model.stats()["shared_failures"] == 0


async def test_what_another_release_kept_there_is_a_miss():
    clock, inner = ManualClock(), Counting()
    level = InOneProcess(clock)
    one, other = (caching(inner, SHARED, clock=clock, shared=level) for _ in range(2))
    await chunks_of(one, question())
    (row,) = level._shelves.of("local")
    for number, data in enumerate([b"", b"[1]", b'{"a": 1}', b'[{"tool_calls": [{}]}]', b"\xff", b"[null]"]):
        level.put("local", Kept(row.tenant, row.key, data, 60.0), 1 << 20)
        other._answers._shelves.forget("local")
        assert len(await chunks_of(other, question())) == 3, data
        assert len(inner.asked) == number + 2


async def test_like_questions_are_found_there_too():
    clock, inner = ManualClock(), Counting()
    level = InOneProcess(clock)
    embedder = MadeUp({"is it high?": [1, 0, 0], "is it tall?": [0.99, 0.14, 0]})
    rules = CacheSettings(semantic=0.95, shared=True)
    one, other = (caching(inner, rules, clock=clock, shared=level, embedder=embedder) for _ in range(2))
    await chunks_of(one, question("is it high?"))
    (hit,) = await chunks_of(other, question("is it tall?"))
    assert (hit.text, len(inner.asked)) == ("The tide is high.", 1)
    assert other.stats()["semantic"] == {"hits": 1, "misses": 0, "shared_hits": 1}


class Remote:
    """A handle of an actor in this process; `trouble` is raised by what is awaited."""

    def __init__(self, clock: ManualClock) -> None:
        self._actor = CacheActor(clock)
        self.trouble: Exception | None = None

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: asyncio.ensure_future(self._call(method, arguments)))

    async def _call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        if self.trouble is not None:
            raise self.trouble
        return await getattr(self._actor, method)(*arguments)


async def test_the_actor_is_found_behind_the_calls_and_again_when_it_died_for_good():
    clock = ManualClock()
    handles: list[Remote] = []

    def start() -> Remote:
        handles.append(Remote(clock))
        return handles[-1]

    answers = RayAnswers(start)
    kept = Kept("ann", "k", b"[]", 60.0)
    assert await answers.get("local", "k") is None, "nobody waits until it is found"
    await eventually(lambda: answers._handle is not None, "the actor")
    answers.put("local", kept, 1 << 20)
    assert await answers.get("local", "k") == kept
    assert await handles[0].stats.remote("local") == {"answers": 1, "bytes": 514, "evicted": 0}
    answers.forget("local")
    assert await answers.get("local", "k") is None
    handles[0].trouble = ray.exceptions.ActorDiedError()
    with pytest.raises(ray.exceptions.ActorDiedError):
        await answers.near("local", "s", b"", 0.9)
    assert await answers.get("local", "k") is None
    await eventually(lambda: len(handles) == 2 and answers._handle is handles[1], "the new actor")


async def test_an_actor_that_cannot_be_started_is_told_of_and_tried_again():
    tries = []

    def start() -> Any:
        tries.append(1)
        raise NOT_THERE

    answers = RayAnswers(start)
    assert await answers.get("local", "k") is None
    await eventually(lambda: answers._trouble, "the failure")
    with pytest.raises(type(NOT_THERE)):
        await answers.get("local", "k")
    assert await answers.get("local", "k") is None
    await eventually(lambda: len(tries) == 2, "another try")


def test_the_actor_is_one_that_ray_would_take():
    ray.remote(CacheActor).options(**actor_options())
    assert not ray.is_initialized()
    assert pickle.loads(pickle.dumps(RayAnswers()))._start is start_cache
