"""The requests of one part of a batch, asked a few at a time until they are answered or the batch's time is up."""

import asyncio
import dataclasses
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

from manta.clock import Clock
from manta.errors import (
    BudgetExceeded,
    CoordinatorUnavailable,
    MantaError,
    ModelError,
    OutcomeUnknown,
    StaleEpoch,
    StorageUnavailable,
)
from manta.messages import ChatChunk, ChatRequest
from manta.protocols import AgentContext, ChatModel
from manta.telemetry import get_logger
from serve_app.gateway.openai.batch_endpoints import ENDPOINTS
from serve_app.gateway.openai.batch_lines import Line, answered, not_done, refused
from serve_app.models.choices import answers

LINES_AT_ONCE = 8
"""Of one part."""
LINE_S = 600.0
"""What one try of a request may take."""
MAX_PAUSE_S = 60.0
"""Between two tries, unless a longer one is asked for."""
GRACE_S = 300.0
"""A batch's window ends so long before its run's deadline: its steps end by themselves, with what they have."""
EXPIRED = "batch_expired"
EXPIRED_MESSAGE = "This request could not be executed before the completion window expired."
OURS = (StaleEpoch, BudgetExceeded, OutcomeUnknown, StorageUnavailable, CoordinatorUnavailable)
"""Errors that are not a request's: the part as a whole cannot go on."""

logger = get_logger("gateway")


@dataclass(frozen=True, slots=True)
class Result:
    """A line of the output file, or else of the error file."""

    kind: Literal["completed", "failed", "expired"]
    line: dict[str, Any]


def pause_s(tried: int, asked_for: float | None) -> float:
    """Before the try after number `tried`; never shorter than the `retry_after_s` of its error."""
    return max(min(MAX_PAUSE_S, 2.0 ** min(tried - 1, 10)), asked_for or 0.0)


class PartWork:
    """`model`: whom a request asks that names none."""

    def __init__(self, context: AgentContext, endpoint: str, model: str, clock: Clock) -> None:
        self._context = context
        self._ask = ENDPOINTS[endpoint]
        self._model = model
        deadline = context.task.scope.deadline
        self._expires_at = math.inf if deadline is None else deadline - GRACE_S
        self._clock = clock
        self._places = asyncio.Semaphore(LINES_AT_ONCE)

    async def results(self, lines: Sequence[Line]) -> list[Result]:
        """One for each line, in their order.

        Raises:
            MantaError: one of `OURS`.
        """
        tasks = [asyncio.create_task(self._answered(line)) for line in lines]
        try:
            left = max(0.0, self._expires_at - self._clock.now())
            await asyncio.wait(
                tasks, timeout=None if math.isinf(left) else left, return_when=asyncio.FIRST_EXCEPTION
            )
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        return [
            _expired(line) if task.cancelled() else task.result()
            for line, task in zip(lines, tasks, strict=True)
        ]

    async def _answered(self, line: Line) -> Result:
        try:
            return Result("completed", answered(line.custom_id, await self._patiently(line)))
        except OURS:
            raise
        except TimeoutError:
            late = ModelError(f"no answer within {LINE_S:.0f} s", fix="ask for less", code="timeout")
            return Result("failed", refused(line.custom_id, late))
        except MantaError as error:
            return Result("failed", refused(line.custom_id, error))
        except Exception:
            logger.exception("a request of a batch failed by a defect")
            defect = MantaError("something went wrong inside", fix="see `manta logs`", code="internal_error")
            return Result("failed", refused(line.custom_id, defect))

    async def _patiently(self, line: Line) -> dict[str, Any]:
        """Tried again while the error may pass, to the end of the batch's window; others go on in the pauses."""
        for tried in count(1):
            try:
                async with self._places, asyncio.timeout(LINE_S):
                    return await self._ask(line.body, self._named, self._model)
            except OURS:
                raise
            except MantaError as error:
                if not error.retryable:
                    raise
                pause = pause_s(tried, error.retry_after_s)
            await self._clock.sleep(pause)
        raise AssertionError("counting has no end")

    def _named(self, name: str) -> ChatModel:
        until = min(self._clock.now() + LINE_S, self._expires_at)
        return _Several(self._context.model_named(name), until)


class _Several:
    """A model that gives several answers at once, each a recorded call of its own; `until`: nobody waits longer."""

    def __init__(self, model: ChatModel, until: float) -> None:
        self._model = model
        self._until = until

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        hints = dataclasses.replace(request.hints, deadline=self._until)
        return answers(self._model.stream, dataclasses.replace(request, hints=hints))


def _expired(line: Line) -> Result:
    return Result("expired", not_done(line.custom_id, EXPIRED, EXPIRED_MESSAGE))
