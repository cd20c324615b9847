"""Several answers at once: streams that run beside each other, told as one."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TypeAlias

from manta.messages import ChatChunk, ChatRequest, Usage

Streams: TypeAlias = Callable[[ChatRequest], AsyncGenerator[ChatChunk, None]]
_MAX_SEED = 1 << 63


def answers(stream: Streams, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
    """The request's `n` answers as one stream; `stream` is only asked for one at a time.

    Each has the request's seed and its own number, so that they differ and can be had again. The prompt's
    tokens count once.
    """
    if request.n == 1:
        return stream(request)
    return _numbered([stream(single) for single in singles(request)])


def singles(request: ChatRequest) -> list[ChatRequest]:
    """A request for each of the `n` answers."""
    return [
        dataclasses.replace(request, n=1, seed=_seed(request.seed, number)) for number in range(request.n)
    ]


def _seed(seed: int | None, number: int) -> int | None:
    return None if seed is None else (seed + number + _MAX_SEED) % (2 * _MAX_SEED) - _MAX_SEED


async def _numbered(streams: Sequence[AsyncGenerator[ChatChunk, None]]) -> AsyncGenerator[ChatChunk, None]:
    usages: dict[int, Usage] = {}
    async with aclosing(together(streams)) as chunks:
        async for number, chunk in chunks:
            if chunk.usage is not None:
                usages[number] = chunk.usage
            complete = len(usages) == len(streams)
            usage = _of_one_prompt([usages[i] for i in sorted(usages)]) if complete else None
            yield dataclasses.replace(chunk, choice=number, usage=usage)


def _of_one_prompt(usages: Sequence[Usage]) -> Usage:
    return dataclasses.replace(usages[0], output_tokens=sum(usage.output_tokens for usage in usages))


async def together(
    streams: Sequence[AsyncGenerator[ChatChunk, None]],
) -> AsyncGenerator[tuple[int, ChatChunk], None]:
    """The chunks of all streams as they come, each with its stream's number.

    All are closed when this is closed, and when one of them fails.
    """
    arrived: asyncio.Queue[tuple[int, ChatChunk] | None | Exception] = asyncio.Queue(len(streams))

    async def pump(number: int, stream: AsyncGenerator[ChatChunk, None]) -> None:
        try:
            async with aclosing(stream):
                async for chunk in stream:
                    await arrived.put((number, chunk))
            await arrived.put(None)
        except Exception as error:
            await arrived.put(error)

    pumps = [asyncio.create_task(pump(number, stream)) for number, stream in enumerate(streams)]
    left = len(streams)
    try:
        while left:
            piece = await arrived.get()
            if piece is None:
                left -= 1
            elif isinstance(piece, Exception):
                raise piece
            else:
                yield piece
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
