"""A model under the record: its answers are streamed, journaled before their end is handed out, and replayed."""

import dataclasses
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from agents.call_keys import Claim, request_body, request_hash
from agents.recording import Recorder
from agents.request_deltas import RecentRequests
from manta.clock import Clock, SystemClock
from manta.errors import InvalidInput, MantaError, ModelError, error_from_json
from manta.faults import reach
from manta.messages import (
    ChatChunk,
    ChatRequest,
    ChatResponse,
    ModelInfo,
    Price,
    RecordedCall,
    ToolCall,
    Usage,
    from_json,
    to_json,
)
from manta.protocols import ChatModel


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Tries of a model call while no answer was seen. Waits double from `min_s` to `max_s` seconds."""

    attempts: int = 3
    min_s: float = 0.5
    max_s: float = 8.0

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "RetryPolicy":
        """From an agent's options: `model_attempts`, `model_retry_min_s`, `model_retry_max_s`.

        Raises:
            InvalidInput: one of them is not a number, or out of range.
        """
        default = cls()
        try:
            policy = cls(
                int(options.get("model_attempts", default.attempts)),
                float(options.get("model_retry_min_s", default.min_s)),
                float(options.get("model_retry_max_s", default.max_s)),
            )
        except (TypeError, ValueError) as error:
            raise InvalidInput(
                f"a model retry option is not a number: {error}", fix="mend the options"
            ) from None
        if policy.attempts < 1 or not 0 <= policy.min_s <= policy.max_s:
            raise InvalidInput(
                "model_attempts must be at least 1 and model_retry_min_s between 0 and model_retry_max_s",
                fix="mend the agent's options",
            )
        return policy

    def delay(self, attempt: int, draw: float) -> float:
        """Seconds before the next try after the `attempt`-th failed; `draw` in [0, 1) is the jitter."""
        ceiling = min(self.max_s, self.min_s * 2.0 ** (attempt - 1))
        return ceiling * (0.5 + draw / 2)


class RecordedModel:
    """A `ChatModel` whose calls are recorded for one attempt at one task.

    Args:
        inner: the model itself.
        recorder: the attempt's record; its task gives scope and hints.
        name: the model's, for requests that name none.
    """

    def __init__(
        self,
        inner: ChatModel,
        recorder: Recorder,
        name: str,
        *,
        clock: Clock | None = None,
        retry: RetryPolicy | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._inner = inner
        self._recorder = recorder
        self._name = name
        self._clock = clock or SystemClock()
        self._retry = retry or RetryPolicy()
        self._jitter = jitter
        self._recent = RecentRequests()
        self._price = Price()

    async def info(self) -> ModelInfo:
        info = await self._inner.info()
        self._recorder.note_info(self._name, info)
        return info

    async def count_tokens(self, messages: Sequence[Any]) -> int:
        count = await self._inner.count_tokens(messages)
        self._recorder.note_count(self._name, messages, count)
        return count

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        """The answer, from the record if it is there, else from the model.

        The outcome is durable before the last chunk is handed out. Closing the generator closes the
        model's; the call then stays an intent.

        Raises:
            ModelError: after the last try, or at once if more chunks cannot follow those seen.
            StaleEpoch: the step was given to another attempt.
            BudgetExceeded: the longest answer it may give would exceed a budget.
            InvalidInput: several answers are asked for.
        """
        if request.n > 1:
            raise InvalidInput("a recorded call has one answer", fix="ask several times")
        request = self._addressed(request)
        body = request_body(request)
        digest = request_hash(body)
        reserve = await self._most(request) if self._recorder.task.limits else Usage()
        with self._recorder.claim(f"model:{digest[:16]}") as claim:
            told = self._recent.shorten(body)
            done = await self._recorder.begin("model", request.model, claim, told, digest, reserve=reserve)
            self._recent.remember(claim.key, body)
            if done is not None:
                yield _replayed(done)
                return
            async with aclosing(self._live(request, claim)) as chunks:
                async for chunk in chunks:
                    yield chunk

    def _addressed(self, request: ChatRequest) -> ChatRequest:
        scope, hints = self._recorder.task.scope, self._recorder.task.hints
        deadlines = [d for d in (scope.deadline, hints.deadline, request.hints.deadline) if d is not None]
        filled = dataclasses.replace(
            hints,
            run=scope.run,
            step=scope.step,
            epoch=scope.epoch,
            attained_tokens=hints.attained_tokens + self._recorder.tokens_spent,
            deadline=min(deadlines, default=None),
            tenant=scope.tenant,
            user=request.hints.user or scope.principal,
        )
        return dataclasses.replace(request, model=request.model or self._name, hints=filled)

    async def _most(self, request: ChatRequest) -> Usage:
        """What the call can use at most."""
        info = await self._inner.info()
        prompt = await self._inner.count_tokens(request.messages)
        answer = request.max_tokens if request.max_tokens is not None else info.context_window - prompt
        usage = Usage(input_tokens=prompt, output_tokens=max(answer, 0), model_calls=1)
        return dataclasses.replace(usage, cost_micros=info.price.micros(usage))

    async def _live(self, request: ChatRequest, claim: Claim) -> AsyncGenerator[ChatChunk, None]:
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[ToolCall] = []
        try:
            async with aclosing(self._tried(request)) as chunks:
                async for chunk in chunks:
                    if claim.kept:
                        continue  # Nothing follows the last chunk; the model may end in its own time.
                    texts.append(chunk.text)
                    thoughts.append(chunk.reasoning)
                    calls.extend(chunk.tool_calls)
                    if chunk.finish_reason is not None:
                        reach("agent.model_answered")
                        usage = self._priced(chunk)
                        response = ChatResponse(
                            "".join(texts), tuple(calls), chunk.finish_reason, usage, "".join(thoughts)
                        )
                        await self._finish(request, claim, usage, response=to_json(response))
                        chunk = dataclasses.replace(chunk, usage=usage)
                    yield chunk
        except ModelError as error:
            if not error.retryable and not claim.kept:
                await self._finish(request, claim, Usage(model_calls=1), error=error.to_json())
            raise
        if not claim.kept:
            raise ModelError("the model's answer stopped without an end", fix="try the step again")

    def _priced(self, chunk: ChatChunk) -> Usage:
        usage = chunk.usage or Usage()
        cost = usage.cost_micros if chunk.by else self._price.micros(usage)
        return dataclasses.replace(usage, model_calls=1, cost_micros=cost)

    async def _finish(self, request: ChatRequest, claim: Claim, usage: Usage, **outcome: Any) -> None:
        await self._recorder.finish("model", request.model, claim, usage, **outcome)

    async def _tried(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        attempt = 0
        while True:
            attempt += 1
            seen = False
            try:
                self._price = (await self._inner.info()).price
                async with aclosing(self._inner.stream(request)) as chunks:
                    async for chunk in chunks:
                        seen = True
                        yield chunk
                return
            except MantaError as error:
                delay = self._retry.delay(attempt, self._jitter())
                if (
                    seen
                    or not error.retryable
                    or attempt >= self._retry.attempts
                    or self._too_late(request, delay)
                ):
                    raise
            await self._clock.sleep(delay)

    def _too_late(self, request: ChatRequest, delay: float) -> bool:
        return request.hints.deadline is not None and self._clock.now() + delay >= request.hints.deadline


def _replayed(done: RecordedCall) -> ChatChunk:
    if done.error is not None:
        raise error_from_json(done.error)
    response = from_json(ChatResponse, done.response or {"text": ""})
    return ChatChunk(
        response.text, response.tool_calls, response.finish_reason, response.usage, response.reasoning
    )
