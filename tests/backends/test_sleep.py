"""The backend that sleeps: steps are shared, the batch is bounded, prompts are read once."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from manta.config import ModelSettings
from manta.messages import ChatMessage, ChatRequest, Usage
from serve_app.backends.prefixes import Prefixes
from serve_app.backends.sleep import SleepBackend
from tests.models.support import OwnTime


class PoliteTime(OwnTime):
    """Others have their turn while one waits."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        await asyncio.sleep(0)


def sleeper(**given: Any) -> tuple[SleepBackend, PoliteTime]:
    clock = PoliteTime()
    settings = ModelSettings(backend="sleep", **{"step_s": (0.1, 0.01), **given})
    return SleepBackend("sleeper", settings, clock), clock


async def ask(backend: SleepBackend, tokens: int, *said: str) -> Usage:
    messages = tuple(ChatMessage("user", text) for text in said or ("go",))
    async with aclosing(backend.stream(ChatRequest(messages, max_tokens=tokens))) as chunks:
        got = [chunk async for chunk in chunks]
    assert len(got) == tokens + 1
    assert got[-1].usage is not None
    return got[-1].usage


async def test_a_step_is_for_all_of_the_batch():
    backend, clock = sleeper()
    await asyncio.gather(*(ask(backend, 3) for _ in range(4)))
    assert clock.pauses == pytest.approx([0.14] * 3)
    assert backend.stats()["served"] == 4
    assert backend.stats()["steps"] == 3


async def test_the_batch_is_bounded_and_others_wait_in_order():
    backend, clock = sleeper(max_batch=2)
    ended: list[int] = []

    async def one(number: int, tokens: int) -> None:
        await ask(backend, tokens)
        ended.append(number)

    await asyncio.gather(one(0, 4), one(1, 2), one(2, 3))
    assert clock.pauses == pytest.approx([0.12, 0.12, 0.12, 0.12, 0.11])
    assert ended == [1, 0, 2]


async def test_what_is_read_once_is_not_read_again():
    backend, clock = sleeper(step_s=(0.1, 0.0), prefill_s=1.0)
    first = await ask(backend, 1, "three words long")
    again = await ask(backend, 1, "three words long", "two more")
    other = await ask(backend, 1, "two more")
    assert [(u.input_tokens, u.cached_tokens) for u in (first, again, other)] == [(3, 0), (5, 3), (2, 0)]
    assert clock.pauses == [3.1, 2.1, 2.1]


async def test_who_leaves_frees_its_place():
    backend, _ = sleeper(max_batch=1)
    async with aclosing(backend.stream(ChatRequest((ChatMessage("user", "x"),), max_tokens=10**9))) as chunks:
        await anext(chunks)
        waiting = asyncio.create_task(ask(backend, 1))
    await waiting
    assert backend.stats()["running"] == backend.stats()["waiting"] == 0


def test_the_cache_is_bounded_and_forgets_ends_first():
    def said(*texts: str) -> ChatRequest:
        return ChatRequest(tuple(ChatMessage("user", text) for text in texts))

    kept = Prefixes(tokens=6)
    assert kept.read(said("a b c", "d e", "f")) == (6, 0)
    assert kept.read(said("x")) == (1, 0)
    assert kept.read(said("a b c", "d e", "f")) == (6, 5)
    assert Prefixes(tokens=2).read(said("a b c")) == (3, 0)
    raw = Prefixes(tokens=100)
    assert raw.read(ChatRequest((), prompt="one two")) == (2, 0)
    assert raw.read(ChatRequest((), prompt_ids=(1, 2, 3))) == (3, 0)
    assert raw.read(ChatRequest((), prompt_ids=(1, 2, 3))) == (3, 3)
