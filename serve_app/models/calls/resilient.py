"""A model that is asked again, left in peace, and stood in for: until the first chunk is passed on."""

import random
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from manta.clock import Clock, SystemClock
from manta.errors import MantaError
from manta.messages import ChatChunk, ChatRequest, ModelInfo, Price
from manta.protocols import ChatModel
from manta.telemetry import get_logger
from serve_app.models.calls.breaker import Breaker
from serve_app.models.calls.faults import (
    MODEL_UNAVAILABLE,
    another_may_answer,
    counts_against_model,
    may_pass,
)
from serve_app.models.calls.retry import RetryRules, pause_s

logger = get_logger("models")


@dataclass(frozen=True, slots=True)
class Link:
    """A model in a chain. Its breaker is shared by all chains that it is in."""

    name: str
    model: ChatModel
    retry: RetryRules
    breaker: Breaker
    price: Price = field(default_factory=Price)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        """One try, under the breaker. Its first chunk is the sign that the model answers.

        The first chunk and the usage say who answers, and the usage what that costs.
        """
        ticket = self.breaker.enter()
        answered = counted = False
        try:
            async with aclosing(self.model.stream(request)) as chunks:
                async for chunk in chunks:
                    if not answered:
                        answered = counted = True
                        self.breaker.leave(ticket, "answered")
                        chunk = replace(chunk, by=self.name)
                    if chunk.usage is not None:
                        cost = chunk.usage.cost_micros or self.price.micros(chunk.usage)
                        chunk = replace(chunk, by=self.name, usage=replace(chunk.usage, cost_micros=cost))
                    yield chunk
        except MantaError as error:
            if counts_against_model(error):
                counted = True
                self.breaker.leave(ticket, "failed")
            raise
        finally:
            if not counted:
                self.breaker.leave(ticket, "neither")


class ResilientModel:
    """A `ChatModel` over a chain of them: the one that is asked for, and those that answer in its place.

    Once a chunk is passed on, an error is the caller's to see: another answer cannot follow half of the first.

    Calls of runs (`hints.run`) are tried again by their agent too, under the record (`agents.recorded_model`).
    Both must not multiply. So the last model of the chain, which is the only one where there are no fallbacks,
    is tried once for such a call: what fails here the agent asks for again. Those before it are tried as
    for anyone, as the agent does not hear of them unless the whole chain fails; then their breakers bound the tries.

    `info` and `count_tokens` are those of the first model; the price is that of whoever answers.

    Args:
        links: at least one.
        on_length: a prompt that is too long for the first model goes to the next.
    """

    def __init__(
        self,
        links: Sequence[Link],
        *,
        on_length: bool = False,
        clock: Clock | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self._links = tuple(links)
        self._first = links[0]
        self._on_length = on_length
        self._clock = clock or SystemClock()
        self._chance = chance or random.Random()
        self._asked = self._retried = self._failed = 0
        self._answered_by: Counter[str] = Counter()

    async def info(self) -> ModelInfo:
        return await self._first.model.info()

    async def count_tokens(self, messages: Sequence[Any]) -> int:
        return await self._first.model.count_tokens(messages)

    def calls(self) -> dict[str, Any]:
        """What this process saw: calls `asked` and `failed`, tries `retried`, `answered_by` each model of the
        chain, and the state of the first one's `breaker`.
        """
        return {
            "asked": self._asked,
            "retried": self._retried,
            "failed": self._failed,
            "answered_by": dict(self._answered_by),
            "breaker": self._first.breaker.state,
        }

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        """The answer of the first model of the chain that begins one.

        Raises:
            Unavailable: `model_unavailable`, each one's breaker is open.
            MantaError: the first error that may pass, or the first of all: of the model rather than of those
                that stand in for it.
        """
        self._asked += 1
        errors: list[MantaError] = []
        for link in self._links:
            passed_on = False
            try:
                async with aclosing(self._tries(link, request)) as chunks:
                    async for chunk in chunks:
                        if not passed_on:
                            passed_on = True
                            self._note_answer(link, errors)
                        yield chunk
                return
            except MantaError as error:
                if passed_on or not self._goes_on(link, error):
                    self._failed += 1
                    raise
                errors.append(error)
            left = self._left_s(request)
            if left is not None and left <= 0:
                break
        self._failed += 1
        raise next((error for error in errors if error.retryable), errors[0])

    async def _tries(self, link: Link, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        rules = link.retry
        if request.hints.run is not None and link is self._links[-1]:
            rules = RetryRules(attempts=1)
        attempt = 0
        before: MantaError | None = None
        while True:
            attempt += 1
            passed_on = False
            try:
                async with aclosing(link.stream(request)) as chunks:
                    async for chunk in chunks:
                        passed_on = True
                        yield chunk
                return
            except MantaError as error:
                if before is not None and error.code == MODEL_UNAVAILABLE:
                    # It opened over this very call, whose own error says more.
                    raise before from None
                pause = self._pause(rules, attempt, request, error)
                if passed_on or pause is None:
                    raise
                before = error
            self._retried += 1
            await self._clock.sleep(pause)

    def _pause(
        self, rules: RetryRules, attempt: int, request: ChatRequest, error: MantaError
    ) -> float | None:
        if not may_pass(error):
            return None
        left = self._left_s(request)
        return pause_s(rules, attempt, self._chance.random(), told_s=error.retry_after_s, left_s=left)

    def _left_s(self, request: ChatRequest) -> float | None:
        deadline = request.hints.deadline
        return None if deadline is None else deadline - self._clock.now()

    def _goes_on(self, link: Link, error: MantaError) -> bool:
        fallback = link is not self._first
        return another_may_answer(error, fallback=fallback, on_length=self._on_length)

    def _note_answer(self, link: Link, errors: Sequence[MantaError]) -> None:
        self._answered_by[link.name] += 1
        if errors:
            logger.warning("model %s answers in place of %s: %s", link.name, self._first.name, errors[0])
