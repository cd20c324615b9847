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


async def first_of(chunks: AsyncGenerator[ChatChunk, None]) -> ChatChunk:
    """The first chunk, before any headers are sent: what fails until then is still an honest status code."""
    first = await anext(chunks, None)
    if first is None:
        raise cut_short()
    return first
