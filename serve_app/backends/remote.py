"""Any OpenAI-compatible server, by HTTP."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from manta.config import ModelSettings
from manta.errors import ModelError
from manta.messages import ChatChunk, ChatMessage, ChatRequest, ModelInfo
from serve_app.backends.openai_client import DEFAULT_WINDOW, OpenAIClient, client_for


class RemoteBackend:
    """`count_tokens` is the server's own count where it has vLLM's `/tokenize`, else an estimate."""

    healthy = True

    def __init__(self, name: str, settings: ModelSettings) -> None:
        self._name = name
        self._settings = settings
        self._client: OpenAIClient | None = None
        self._served = 0

    def start(self) -> None:
        settings = self._settings
        model = settings.model or self._name
        self._client = client_for(self._name, settings, model, settings.base_url)

    def stop(self) -> None:
        """The client's connections end with the process."""
        self._client = None

    @property
    def client(self) -> OpenAIClient:
        if self._client is None:
            raise ModelError(f"model {self._name} is not started", fix="wait until /readyz says so")
        return self._client

    async def info(self) -> ModelInfo:
        """The window is the configured one, else what the server tells, else `DEFAULT_WINDOW`."""
        window = self._settings.context_window or await self.client.window() or DEFAULT_WINDOW
        return ModelInfo(self._name, window, self._settings.abilities)

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        return await self.client.count_tokens(messages)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        async with aclosing(self.client.stream(request)) as chunks:
            async for chunk in chunks:
                yield chunk
        self._served += 1

    def stats(self) -> dict[str, Any]:
        return {"served": self._served}
