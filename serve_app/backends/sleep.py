"""A backend that sleeps a fitted step time: load, routing and scaling are then tested with the real Serve
and the real protocol, without a model that competes for the cores."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from manta.config import ModelSettings
from manta.messages import ChatChunk, ChatMessage, ChatRequest, ModelInfo, Usage


class SleepBackend:
    """Each token of an answer costs `constant + per_sequence * running` seconds, as in one batch."""

    healthy = True

    def __init__(self, name: str, settings: ModelSettings) -> None:
        self._name = name
        self._constant, self._per_sequence = settings.step_s
        self._window = settings.context_window or 8192
        self._abilities = settings.abilities
        self._running = 0
        self._served = 0

    def start(self) -> None:
        """Nothing to load."""

    def stop(self) -> None:
        """Nothing to free."""

    async def info(self) -> ModelInfo:
        return ModelInfo(self._name, self._window, self._abilities)

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        return sum(len(message.content.split()) for message in messages)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        tokens = request.max_tokens or 16
        self._running += 1
        try:
            for number in range(tokens):
                await asyncio.sleep(self._constant + self._per_sequence * self._running)
                yield ChatChunk(text=f"word{number} ")
            usage = Usage(await self.count_tokens(request.messages), tokens, model_calls=1)
            self._served += 1
            yield ChatChunk(finish_reason="length", usage=usage)
        finally:
            self._running -= 1

    def stats(self) -> dict[str, Any]:
        return {"running": self._running, "served": self._served}
