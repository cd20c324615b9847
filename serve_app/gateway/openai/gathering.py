"""Streams of chunks put together to whole answers."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from manta.errors import ModelError
from manta.messages import ChatChunk, TokenLogprob, ToolCall, Usage


@dataclass(slots=True)
class Gathered:
    """One answer, as far as it has come."""

    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: str | None = None

    def add(self, chunk: ChatChunk) -> None:
        self.texts.append(chunk.text)
        self.reasoning.append(chunk.reasoning)
        self.calls.extend(chunk.tool_calls)
        self.logprobs.extend(chunk.logprobs)
        self.finish = chunk.finish_reason or self.finish

    @property
    def text(self) -> str:
        return "".join(self.texts)


async def gathered(chunks: AsyncGenerator[ChatChunk, None], count: int) -> tuple[list[Gathered], Usage]:
    """The `count` answers of a stream, and what they used.

    Raises:
        ModelError: the stream stopped before the end of one of them.
    """
    found = [Gathered() for _ in range(count)]
    usage = Usage()
    async with aclosing(chunks):
        async for chunk in chunks:
            found[chunk.choice].add(chunk)
            usage = chunk.usage or usage
    if any(answer.finish is None for answer in found):
        raise cut_short()
    return found, usage


def cut_short() -> ModelError:
    return ModelError("the model's answer ended before its end", fix="try again")


async def begun(chunks: AsyncGenerator[ChatChunk, None]) -> AsyncGenerator[ChatChunk, None]:
    """The same chunks, once the first is there: what fails until then is still an honest status code.

    The caller still closes `chunks`. Raises ModelError where none comes.
    """
    first = await anext(chunks, None)
    if first is None:
        raise cut_short()

    async def again() -> AsyncGenerator[ChatChunk, None]:
        yield first
        async for chunk in chunks:
            yield chunk

    return again()
