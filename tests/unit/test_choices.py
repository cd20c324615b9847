"""Several answers as one stream: numbered, counted once, ended together."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from manta.errors import ModelError
from manta.messages import ChatChunk, ChatRequest, Usage
from serve_app.models.choices import answers, together

ASKED = ChatRequest((), seed=5, n=3)


class Model:
    """Says its seed word by word; `breaks` is the seed whose answer breaks off."""

    def __init__(self, breaks: int = 0) -> None:
        self.requests: list[ChatRequest] = []
        self.open = 0
        self._breaks = breaks

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        self.requests.append(request)
        self.open += 1
        try:
            for word in range(3):
                await asyncio.sleep(0)
                if request.seed == self._breaks and word:
                    raise ModelError("it broke")
                yield ChatChunk(f"{request.seed} ")
            yield ChatChunk(finish_reason="stop", usage=Usage(10, 3, model_calls=1))
        finally:
            self.open -= 1


async def test_each_answer_has_its_number_and_a_seed_of_its_own():
    model = Model()
    texts = {0: "", 1: "", 2: ""}
    last: dict[int, str | None] = {}
    chunks = [chunk async for chunk in answers(model.stream, ASKED)]
    for chunk in chunks:
        texts[chunk.choice] += chunk.text
        last[chunk.choice] = chunk.finish_reason
    assert texts == {0: "5 5 5 ", 1: "6 6 6 ", 2: "7 7 7 "}
    assert last == {0: "stop", 1: "stop", 2: "stop"}
    assert [(request.n, request.seed) for request in model.requests] == [(1, 5), (1, 6), (1, 7)]


async def test_only_the_last_chunk_of_all_has_the_usage_and_the_prompt_counts_once():
    chunks = [chunk async for chunk in answers(Model().stream, ASKED)]
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].usage == Usage(10, 9, model_calls=1)


async def test_answers_come_beside_each_other():
    chunks = [chunk async for chunk in answers(Model().stream, ASKED)]
    assert {chunk.choice for chunk in chunks[:3]} == {0, 1, 2}


@pytest.mark.parametrize("seed", [None, (1 << 63) - 1])
async def test_seeds_stay_within_their_bounds(seed: int | None):
    model = Model()
    [chunk async for chunk in answers(model.stream, ChatRequest((), seed=seed, n=2))]
    seeds = [request.seed for request in model.requests]
    assert seeds == [seed, None if seed is None else -(1 << 63)]


async def test_one_answer_is_the_models_own_stream():
    model = Model()
    request = ChatRequest((), seed=5)
    assert len([chunk async for chunk in answers(model.stream, request)]) == 4
    assert model.requests == [request]


async def test_leaving_closes_all():
    model = Model()
    stream = answers(model.stream, ASKED)
    await anext(stream)
    assert model.open == 3
    await stream.aclose()
    assert model.open == 0


async def test_one_that_breaks_ends_all():
    model = Model(breaks=6)
    with pytest.raises(ModelError, match="it broke"):
        [chunk async for chunk in answers(model.stream, ASKED)]
    assert model.open == 0


async def test_cancelling_who_reads_closes_all():
    model = Model()
    never = asyncio.Event()

    async def stuck(request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        async for chunk in model.stream(request):
            yield chunk
            await never.wait()

    async def read() -> None:
        async for _ in together([stuck(ASKED), stuck(ASKED)]):
            pass

    task = asyncio.create_task(read())
    while model.open < 2:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while model.open:
        await asyncio.sleep(0)
