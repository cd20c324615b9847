"""A backend that sleeps a fitted step time: load, routing and scaling are then tested with the real Serve
and the real protocol, without a model that competes for the cores."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from manta.clock import Clock, SystemClock
from manta.config import ModelSettings
from manta.messages import ChatChunk, ChatMessage, ChatRequest, ModelInfo, Usage
from serve_app.backends.prefixes import Prefixes

DEFAULT_TOKENS = 16


class _Sequence:
    """A request in the batch, or waiting for it. `words` gets an entry for each token."""

    def __init__(self, request: ChatRequest) -> None:
        self.request = request
        self.left = request.max_tokens or DEFAULT_TOKENS
        self.prompt_tokens = self.cached_tokens = 0
        self.words: asyncio.Queue[None] = asyncio.Queue()


class SleepBackend:
    """A step gives each request of the batch a token and costs `constant + per_sequence * running` seconds.

    Up to `max_batch` requests are in the batch, others wait in their order. One that enters it is read first, which
    costs all of them `prefill_s` for each token of its prompt that the prefix cache has not.
    """

    healthy = True

    def __init__(self, name: str, settings: ModelSettings, clock: Clock | None = None) -> None:
        self._name = name
        self._constant, self._per_sequence = settings.step_s
        self._prefill_s = settings.prefill_s
        self._max_batch = settings.max_batch
        self._window = settings.context_window or 8192
        self._abilities = settings.abilities
        self._clock = clock or SystemClock()
        self._prefixes = Prefixes(settings.kv_tokens)
        self._waiting: deque[_Sequence] = deque()
        self._batch: list[_Sequence] = []
        self._stepping: asyncio.Task[None] | None = None
        self._counts = dict.fromkeys(("served", "steps", "prompt_tokens", "cached_tokens"), 0)

    def start(self) -> None:
        """Nothing to load."""

    def stop(self) -> None:
        """Nothing to free."""

    async def info(self) -> ModelInfo:
        return ModelInfo(self._name, self._window, self._abilities)

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        return sum(len(message.content.split()) for message in messages)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        sequence = _Sequence(request)
        tokens = sequence.left
        self._waiting.append(sequence)
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._steps())
        try:
            for number in range(tokens):
                await sequence.words.get()
                yield ChatChunk(text=f"word{number} ")
            self._counts["served"] += 1
            usage = Usage(sequence.prompt_tokens, tokens, sequence.cached_tokens, model_calls=1)
            yield ChatChunk(finish_reason="length", usage=usage)
        finally:
            self._leave(sequence)

    async def _steps(self) -> None:
        """One loop for all requests; it ends with the last of them, so that nothing runs in an idle replica."""
        while self._waiting or self._batch:
            unread = self._fill()
            pause = self._constant + self._per_sequence * len(self._batch) + self._prefill_s * unread
            await self._clock.sleep(pause)
            self._counts["steps"] += 1
            for sequence in list(self._batch):
                sequence.left -= 1
                sequence.words.put_nowait(None)
                if not sequence.left:
                    self._leave(sequence)

    def _fill(self) -> int:
        """Let those in that wait; returns the tokens of their prompts that have to be read."""
        unread = 0
        while self._waiting and len(self._batch) < self._max_batch:
            sequence = self._waiting.popleft()
            sequence.prompt_tokens, sequence.cached_tokens = self._prefixes.read(sequence.request)
            self._counts["prompt_tokens"] += sequence.prompt_tokens
            self._counts["cached_tokens"] += sequence.cached_tokens
            unread += sequence.prompt_tokens - sequence.cached_tokens
            self._batch.append(sequence)
        return unread

    def _leave(self, sequence: _Sequence) -> None:
        for place in (self._batch, self._waiting):
            if sequence in place:
                place.remove(sequence)

    def stats(self) -> dict[str, Any]:
        return {"running": len(self._batch), "waiting": len(self._waiting), **self._counts}
