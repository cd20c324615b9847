"""The record at the boundary: calls are journaled before and after, and replayed when done.

An agent that is run again after its process died makes the same calls; those whose outcome is in the
record are answered from it, so at most the calls in flight at that moment are made twice.
"""

import dataclasses
import json
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from agents.call_keys import Claim, Occurrences, canonical, request_body, request_hash
from manta.clock import Clock, SystemClock
from manta.errors import InvalidInput, MantaError, ModelError, OutcomeUnknown, ToolError, error_from_json
from manta.faults import note_side_effect
from manta.messages import (
    CallIntent,
    CallOutcome,
    CallScope,
    ChatChunk,
    ChatRequest,
    ChatResponse,
    ModelInfo,
    RecordedCall,
    Task,
    Usage,
    from_json,
    to_json,
)
from manta.protocols import CallLog, ChatModel


@dataclass(frozen=True, slots=True)
class CallDone:
    """A call that has its outcome. `replayed`: it was answered from the record."""

    kind: Literal["model", "tool"]
    name: str
    key: str
    usage: Usage
    replayed: bool
    failed: bool = False


CallObserver: TypeAlias = Callable[[CallDone], None]


def _unobserved(done: CallDone) -> None:
    """The observer of those who do not want one."""


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
        log: where intents and outcomes go.
        task: whose calls these are; gives scope, hints and the model's name where a request has none.
        observe: told of each call that has its outcome, before the agent sees the last chunk.
    """

    def __init__(
        self,
        inner: ChatModel,
        log: CallLog,
        task: Task,
        *,
        clock: Clock | None = None,
        retry: RetryPolicy | None = None,
        observe: CallObserver = _unobserved,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._inner = inner
        self._log = log
        self._task = task
        self._clock = clock or SystemClock()
        self._retry = retry or RetryPolicy()
        self._observe = observe
        self._jitter = jitter
        self._occurrences = Occurrences()
        self._spent = 0

    async def info(self) -> ModelInfo:
        return await self._inner.info()

    async def count_tokens(self, messages: Sequence[Any]) -> int:
        return await self._inner.count_tokens(messages)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        """The answer, from the record if it is there, else from the model.

        The outcome is durable before the last chunk is handed out. Closing the generator closes the
        model's; the call then stays an intent.

        Raises:
            ModelError: after the last try, or at once if more chunks cannot follow those seen.
            StaleEpoch: the step was given to another attempt.
        """
        request = self._addressed(request)
        body = request_body(request)
        digest = request_hash(body)
        with self._occurrences.claim(f"model:{digest[:16]}") as claim:
            intent = CallIntent(self._task.scope, claim.key, "model", request.model, digest, body)
            done = _completed(await self._log.begin(intent))
            if done is not None:
                claim.kept = True
                yield self._replay(done)
                return
            async with aclosing(self._live(request, claim)) as chunks:
                async for chunk in chunks:
                    yield chunk

    def _addressed(self, request: ChatRequest) -> ChatRequest:
        scope, hints = self._task.scope, self._task.hints
        deadlines = [d for d in (scope.deadline, hints.deadline, request.hints.deadline) if d is not None]
        filled = dataclasses.replace(
            hints,
            run=scope.run,
            step=scope.step,
            epoch=scope.epoch,
            attained_tokens=hints.attained_tokens + self._spent,
            deadline=min(deadlines, default=None),
        )
        return dataclasses.replace(request, model=request.model or self._task.model, hints=filled)

    def _replay(self, done: RecordedCall) -> ChatChunk:
        self._note(done.name, done.key, done.usage, replayed=True, failed=done.error is not None)
        if done.error is not None:
            raise error_from_json(done.error)
        response = from_json(ChatResponse, done.response or {"text": ""})
        return ChatChunk(response.text, response.tool_calls, response.finish_reason, response.usage)

    async def _live(self, request: ChatRequest, claim: Claim) -> AsyncGenerator[ChatChunk, None]:
        texts: list[str] = []
        calls: list[Any] = []
        try:
            async with aclosing(self._tried(request)) as chunks:
                async for chunk in chunks:
                    if claim.kept:
                        continue  # Nothing follows the last chunk; the model may end in its own time.
                    texts.append(chunk.text)
                    calls.extend(chunk.tool_calls)
                    if chunk.finish_reason is not None:
                        usage = dataclasses.replace(chunk.usage or Usage(), model_calls=1)
                        response = ChatResponse("".join(texts), tuple(calls), chunk.finish_reason, usage)
                        await self._finish(request.model, claim, usage, response=to_json(response))
                        chunk = dataclasses.replace(chunk, usage=usage)
                    yield chunk
        except ModelError as error:
            if not error.retryable and not claim.kept:
                await self._finish(request.model, claim, Usage(model_calls=1), error=error.to_json())
            raise
        if not claim.kept:
            raise ModelError("the model's answer stopped without an end", fix="try the step again")

    async def _tried(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        attempt = 0
        while True:
            attempt += 1
            seen = False
            try:
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

    async def _finish(
        self,
        name: str,
        claim: Claim,
        usage: Usage,
        *,
        response: dict[str, Any] | None = None,
        error: dict[str, str] | None = None,
    ) -> None:
        await self._log.finish(CallOutcome(self._task.scope, claim.key, response, error, usage))
        claim.kept = True
        self._note(name, claim.key, usage, replayed=False, failed=error is not None)

    def _note(self, name: str, key: str, usage: Usage, *, replayed: bool, failed: bool) -> None:
        self._spent += usage.input_tokens + usage.output_tokens
        self._observe(CallDone("model", name, key, usage, replayed, failed))


_in_tool: ContextVar[bool] = ContextVar("in_recorded_tool", default=False)


def in_recorded_tool() -> bool:
    """Whether this code is part of a recorded tool call, whose outcome will cover it."""
    return _in_tool.get()


class RecordedTools:
    """Runs tools under the record, for one attempt at one task."""

    def __init__(self, log: CallLog, scope: CallScope, *, observe: CallObserver = _unobserved) -> None:
        self._log = log
        self._scope = scope
        self._observe = observe
        self._occurrences = Occurrences()
        self._uncertain: set[str] = set()

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        run: Callable[[], Awaitable[Any]],
        *,
        idempotent: bool = True,
        call_id: str | None = None,
    ) -> Any:
        """The tool's result as plain JSON; a `ToolError` of the tool is an outcome too, replayed as an error.

        Args:
            call_id: the model's id of the call. It is part of the key beside the hash, because
                servers exist that give every call the same id.

        Raises:
            ToolError: the tool failed, or its result is not JSON.
            OutcomeUnknown: it must not be repeated, and an earlier try has no outcome.
        """
        body = {"name": name, "arguments": to_json(arguments)}
        digest = request_hash(body)
        base = f"tool:{call_id}:{digest[:16]}" if call_id else f"tool:{digest[:16]}"
        with self._occurrences.claim(base) as claim:
            intent = CallIntent(self._scope, claim.key, "tool", name, digest, body, idempotent)
            done = _completed(await self._log.begin(intent))
            if done is not None:
                claim.kept = True
                return self._replay(done)
            self._refuse_uncertain(intent)
            scope = self._scope
            note_side_effect("tool_call", run=scope.run, step=scope.step, tool=name, key=claim.key)
            inside = _in_tool.set(True)
            try:
                result = _plain(name, await run())
            except ToolError as error:
                await self._finish(name, claim, error=error.to_json())
                raise
            finally:
                _in_tool.reset(inside)
            await self._finish(name, claim, response={"result": result})
            return result

    def _refuse_uncertain(self, intent: CallIntent) -> None:
        # The log lets the same attempt begin a call again; that this one was already made is known only here.
        if intent.key in self._uncertain:
            raise OutcomeUnknown(
                f"the tool {intent.name} was begun before in this attempt and its outcome is not known",
                fix="find out whether it took effect; it is not repeated by itself",
            )
        if not intent.idempotent:
            self._uncertain.add(intent.key)

    def _replay(self, done: RecordedCall) -> Any:
        self._observe(CallDone("tool", done.name, done.key, done.usage, True, done.error is not None))
        if done.error is not None:
            error = error_from_json(done.error)
            if not isinstance(error, ToolError):  # A tool may give its errors a code of its own.
                error = ToolError(error.message, fix=error.fix, code=error.code)
            raise error
        return (done.response or {}).get("result")

    async def _finish(
        self,
        name: str,
        claim: Claim,
        *,
        response: dict[str, Any] | None = None,
        error: dict[str, str] | None = None,
    ) -> None:
        usage = Usage(tool_calls=1)
        await self._log.finish(CallOutcome(self._scope, claim.key, response, error, usage))
        claim.kept = True
        self._observe(CallDone("tool", name, claim.key, usage, False, error is not None))


def _completed(call: RecordedCall | None) -> RecordedCall | None:
    return call if call is not None and call.state == "done" else None


def _plain(name: str, result: Any) -> Any:
    """The result as a replay would give it: a first run and its replay must not differ in types."""
    try:
        return json.loads(canonical(to_json(result)))
    except (TypeError, ValueError) as error:
        raise ToolError(
            f"the tool {name} returned what is not JSON: {error}", fix="return plain values"
        ) from None
