"""Models that do as they are told, and a clock that is moved by those who wait."""

import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from manta.clock import ManualClock
from manta.errors import MantaError
from manta.messages import CallHints, ChatChunk, ChatMessage, ChatRequest, ModelInfo, Usage
from manta.protocols import ChatModel
from serve_app.models.calls.breaker import Breaker, BreakerRules
from serve_app.models.calls.resilient import Link, ResilientModel
from serve_app.models.calls.retry import RetryRules

FIRM = RetryRules(attempts=3, first_delay_s=1.0, factor=2.0, max_delay_s=8.0, jitter=0.0)
NEVER = BreakerRules(failures=0)


class OwnTime(ManualClock):
    """Nobody waits: a sleep moves the time."""

    def __init__(self) -> None:
        super().__init__(start=1000.0)
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._now += seconds


class Told:
    """Plays its part call by call, the last again and again: an error, or a text, or a text and then an error."""

    def __init__(self, *parts: "str | MantaError | tuple[str, MantaError]", window: int = 100) -> None:
        self._parts = list(parts)
        self._window = window
        self.asked = 0
        self.closed = 0

    async def info(self) -> ModelInfo:
        return ModelInfo("told", self._window)

    async def count_tokens(self, messages: Sequence[Any]) -> int:
        return self._window // 10

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        part = self._parts[min(self.asked, len(self._parts) - 1)]
        self.asked += 1
        text, error = part if isinstance(part, tuple) else (part, None)
        if isinstance(text, MantaError):
            raise text
        try:
            for word in text.split():
                yield ChatChunk(word)
            if error is not None:
                raise error
            yield ChatChunk(finish_reason="stop", usage=Usage(1, 1))
        except GeneratorExit:
            self.closed += 1
            raise


def link(name: str, model: ChatModel, clock: ManualClock, **rules: Any) -> Link:
    breaker = Breaker(name, rules.get("breaker", NEVER), clock)
    return Link(name, model, rules.get("retry", FIRM), breaker)


def resilient(clock: ManualClock, *links: Link, **options: Any) -> ResilientModel:
    return ResilientModel(links, clock=clock, chance=random.Random(1), **options)


def ask(**hints: Any) -> ChatRequest:
    return ChatRequest((ChatMessage("user", "hi"),), hints=CallHints(**hints))


async def text_of(model: ChatModel, request: ChatRequest | None = None) -> str:
    async with aclosing(model.stream(request or ask())) as chunks:
        return " ".join([chunk.text async for chunk in chunks if chunk.text])
