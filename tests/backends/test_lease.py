"""A replica's call ends with its caller: when it is closed, when its task is cancelled, when its lease lapses."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import pytest

from manta.config import ModelSettings, PriceSettings
from manta.errors import RunCancelled
from manta.messages import CallHints, ChatChunk, ChatMessage, ChatRequest, Price
from serve_app.models.deployment import ModelDeployment
from serve_app.models.lease import within_lease

NOW = 1000.0


class Source:
    """Gives what it has, then waits for ever; knows whether it was closed."""

    def __init__(self, *texts: str, ends: bool = False) -> None:
        self.texts = texts
        self.ends = ends
        self.closed = False

    async def stream(self) -> AsyncGenerator[ChatChunk, None]:
        try:
            for text in self.texts:
                yield ChatChunk(text)
            if not self.ends:
                await asyncio.Event().wait()
        finally:
            self.closed = True


async def test_chunks_pass_as_they_are():
    source = Source("a", "b", ends=True)
    assert [c.text async for c in within_lease(source.stream(), None)] == ["a", "b"]
    assert [c.text async for c in within_lease(Source("a", ends=True).stream(), NOW + 60, lambda: NOW)] == [
        "a"
    ]
    assert source.closed


async def test_a_lapsed_lease_closes_the_backends_stream():
    source = Source("a")
    seen: list[str] = []

    async def read() -> None:
        async for chunk in within_lease(source.stream(), NOW + 0.01, lambda: NOW):
            seen.append(chunk.text)

    with pytest.raises(RunCancelled, match="lease"):
        await read()
    assert (seen, source.closed) == (["a"], True)


async def test_a_backends_own_timeout_is_not_taken_for_the_lease():
    async def failing() -> AsyncGenerator[ChatChunk, None]:
        raise TimeoutError("the backend's")
        yield ChatChunk()

    with pytest.raises(TimeoutError, match="the backend's"):
        async for _ in within_lease(failing(), NOW + 60, lambda: NOW):
            pass


async def test_closing_and_cancelling_reach_the_backend_at_once():
    source = Source("a")
    async with aclosing(within_lease(source.stream(), None)) as chunks:
        await anext(chunks)
    assert source.closed

    waiting = Source()

    async def read() -> None:
        async for _ in within_lease(waiting.stream(), NOW + 60, lambda: NOW):
            pass

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert waiting.closed


@pytest.fixture
def replica() -> Iterator[ModelDeployment]:
    logger = logging.getLogger("manta")
    before = (logger.handlers, logger.level, logger.propagate)
    price = PriceSettings(input=2, output=8, cached_input=1)
    yield ModelDeployment("sleeper", ModelSettings(backend="sleep", step_s=(0, 0), price=price), "INFO")
    logger.handlers, logger.level, logger.propagate = before


async def test_a_replica_tells_its_price(replica: ModelDeployment):
    assert (await replica.info()).price == Price(input=2, output=8, cached_input=1)


async def test_a_replicas_place_is_free_once_its_stream_is_closed_or_lapsed(replica: ModelDeployment):
    request = ChatRequest((ChatMessage("user", "go on"),), max_tokens=10**9)
    async with aclosing(replica.stream(request)) as chunks:
        await anext(chunks)
        assert replica._backend.stats()["running"] == 1
    assert replica._backend.stats()["running"] == 0
    lapsed = ChatRequest(request.messages, max_tokens=10**9, hints=CallHints(deadline=1.0))
    with pytest.raises(RunCancelled):
        async for _ in replica.stream(lapsed):
            pass
    assert replica._backend.stats()["running"] == 0
