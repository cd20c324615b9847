"""The line of a replica: what it works on, what waits for it, and what it had better refuse.

Callers have no queues of their own, so a line here bounds what waits, however many of them there are. What cannot
be answered in its time is refused when it comes, or at the latest before it begins: an answer that nobody waits for
any more takes the place of one that could have been in time.
"""

import asyncio
import heapq
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

from manta.clock import Clock, SystemClock
from manta.errors import Overloaded
from manta.messages import ChatChunk, ChatRequest
from serve_app.models.pace import CHARS_PER_TOKEN, UNSAID_TOKENS, LineLimits, Pace, prompt_tokens, too_late

Streams: TypeAlias = Callable[[ChatRequest], AsyncGenerator[ChatChunk, None]]


class Ticket:
    """A request in the replica. `tokens`: of its prompt, and what its answer may still have."""

    def __init__(self, request: ChatRequest, tokens: float) -> None:
        self.request = request
        self.tokens = tokens


class Line:
    """The requests of one replica. Not for threads: it belongs to one event loop."""

    def __init__(self, limits: LineLimits, clock: Clock | None = None) -> None:
        self.limits = limits
        self._clock = clock or SystemClock()
        self._pace = Pace()
        self._working = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0
        self._refused = self._most = 0
        self._tickets: set[Ticket] = set()

    def load(self) -> tuple[int, float]:
        """Requests that are in the replica, and tokens in flight."""
        return len(self._tickets), sum(ticket.tokens for ticket in self._tickets)

    def stats(self) -> dict[str, Any]:
        return {
            "working": self._working,
            "waiting": len(self._waiting),
            "refused": self._refused,
            "most": self._most,
            "answer_s": round(self._pace.seconds, 3),
        }

    async def answered(self, stream: Streams, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        """The answer, once it is this request's turn.

        Raises:
            Overloaded: too many wait, or the answer would come too late. Nothing was begun.
        """
        ticket = Ticket(request, prompt_tokens(request) + self._allowed(request))
        self._tickets.add(ticket)
        try:
            await self._turn(request)
            try:
                async with aclosing(self._timed(stream, ticket)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            finally:
                self._free()
        finally:
            self._tickets.discard(ticket)

    async def _timed(self, stream: Streams, ticket: Ticket) -> AsyncGenerator[ChatChunk, None]:
        began, said, ended = self._clock.monotonic(), 0.0, False
        try:
            async with aclosing(stream(ticket.request)) as chunks:
                async for chunk in chunks:
                    tokens = len(chunk.text) / CHARS_PER_TOKEN
                    ticket.tokens = max(0.0, ticket.tokens - tokens)
                    said += tokens
                    if chunk.usage is not None:
                        ended, said = True, chunk.usage.output_tokens
                    yield chunk
        finally:
            seconds = self._clock.monotonic() - began
            # One that was broken off says only that a whole one would have taken longer.
            if ended or seconds > self._pace.seconds > 0:
                self._pace = self._pace.after(seconds, said)

    async def _turn(self, request: ChatRequest) -> None:
        """Until a place is this request's; then it is counted as working."""
        if self._working < self.limits.max_ongoing and not self._waiting:
            self._working += 1
            self._most = max(self._most, self._working)
            return
        self._admit(request)
        self._count += 1
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (request.hints.priority, self._count, turn))
        self._most = max(self._most, self._working + len(self._waiting))
        try:
            async with asyncio.timeout(self.limits.max_wait_s or None):
                await turn
            self._check(request, 0.0)
        except TimeoutError:
            self._leave(turn)
            raise self._refusal("it waited for too long") from None
        except BaseException:
            self._leave(turn)
            raise

    def _admit(self, request: ChatRequest) -> None:
        wait_s = self._pace.wait_s(self._before(request), self.limits.max_ongoing)
        if 0 <= self.limits.max_queued <= len(self._waiting):
            raise self._refusal("too many requests wait", wait_s)
        if self.limits.max_wait_s and wait_s > self.limits.max_wait_s:
            raise self._refusal("it would have to wait for too long", wait_s - self.limits.max_wait_s)
        self._check(request, wait_s)

    def _check(self, request: ChatRequest, wait_s: float) -> None:
        deadline = request.hints.deadline
        left_s = None if deadline is None else deadline - self._clock.now()
        if too_late(self._pace, wait_s, request, left_s):
            raise self._refusal("its answer would come too late", wait_s)

    def _refusal(self, cause: str, retry_after_s: float = 0.0) -> Overloaded:
        self._refused += 1
        error = Overloaded(f"this request was not begun: {cause}", fix="try again later")
        error.retry_after_s = max(1.0, retry_after_s)
        return error

    def _free(self) -> None:
        """A place is free: it is the next one's."""
        self._working -= 1
        while self._waiting and self._working < self.limits.max_ongoing:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                self._working += 1

    def _leave(self, turn: asyncio.Future[None]) -> None:
        """One that waited goes. If its turn had come, perhaps at this very moment, the next one has it."""
        if turn.done() and not turn.cancelled():
            self._free()
            return
        self._waiting = [waiting for waiting in self._waiting if waiting[2] is not turn]
        heapq.heapify(self._waiting)

    def _before(self, request: ChatRequest) -> int:
        """How many that wait go first."""
        return sum(priority <= request.hints.priority for priority, _, _ in self._waiting)

    def _allowed(self, request: ChatRequest) -> float:
        usual = self._pace.tokens or UNSAID_TOKENS
        return request.n * (usual if request.max_tokens is None else request.max_tokens)
