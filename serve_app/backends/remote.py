"""Any OpenAI-compatible server, by HTTP."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import httpx

from manta.config import ModelSettings, secret
from manta.errors import InvalidInput, RemoteModelError
from manta.messages import ChatChunk, ChatMessage, ChatRequest, ModelInfo, ToolCall
from serve_app.backends.refusal import refusal
from serve_app.openai_wire import call_from_wire, request_to_wire, usage_from_wire

DEFAULT_WINDOW = 8192
CHARACTERS_PER_TOKEN = 3
"""A cautious estimate: the server's own tokenizer is out of reach."""


class RemoteBackend:
    healthy = True

    def __init__(self, name: str, settings: ModelSettings) -> None:
        self._name = name
        self._settings = settings
        self._model = settings.model or name
        self._client: httpx.AsyncClient | None = None
        self._served = 0

    def start(self) -> None:
        settings = self._settings
        headers = {"Authorization": f"Bearer {secret(settings.api_key_env)}"} if settings.api_key_env else {}
        self._client = httpx.AsyncClient(
            base_url=settings.base_url.rstrip("/") + "/",
            headers=headers,
            timeout=settings.timeout_s,
            trust_env=False,
        )

    def stop(self) -> None:
        """The client's connections end with the process."""
        self._client = None

    async def info(self) -> ModelInfo:
        window = self._settings.context_window or DEFAULT_WINDOW
        return ModelInfo(self._name, window, self._settings.abilities)

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        return sum(len(message.content) // CHARACTERS_PER_TOKEN + 4 for message in messages)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        assert self._client is not None, "start comes first"
        body = request_to_wire(request, self._model, stream=True)
        try:
            async with self._client.stream("POST", "chat/completions", json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise refusal(self._name, response.status_code, response.text, named_by="model")
                assembler = _Assembler()
                async for data in _server_sent(response):
                    chunk = assembler.add(data)
                    if chunk is not None:
                        yield chunk
                yield assembler.last()
                self._served += 1
        except httpx.HTTPError as error:
            cause = f"model {self._name}: {self._settings.base_url} cannot be reached: {type(error).__name__}: {error}"
            raise RemoteModelError(cause, fix=f"check models.{self._name}.base_url") from None

    def stats(self) -> dict[str, Any]:
        return {"served": self._served}


class _Assembler:
    """Gathers tool calls, finish reason and usage from the pieces of a streamed answer."""

    def __init__(self) -> None:
        self._calls: dict[int, dict[str, Any]] = {}
        self._finish = "stop"
        self._usage: dict[str, Any] | None = None

    def add(self, data: dict[str, Any]) -> ChatChunk | None:
        if "error" in data:
            raise RemoteModelError(f"the server broke off: {data['error']}", fix="try again")
        self._usage = data.get("usage") or self._usage
        for choice in data.get("choices") or ():
            self._finish = choice.get("finish_reason") or self._finish
            delta = choice.get("delta") or {}
            for piece in delta.get("tool_calls") or ():
                self._gather(piece)
            if delta.get("content"):
                return ChatChunk(text=delta["content"])
        return None

    def _gather(self, piece: dict[str, Any]) -> None:
        call = self._calls.setdefault(
            piece.get("index", 0), {"id": "", "function": {"name": "", "arguments": ""}}
        )
        call["id"] = piece.get("id") or call["id"]
        function = piece.get("function") or {}
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""

    def last(self) -> ChatChunk:
        try:
            calls: list[ToolCall] = [call_from_wire(self._calls[index]) for index in sorted(self._calls)]
        except InvalidInput as error:
            raise RemoteModelError(f"the server made a tool call that is none: {error.message}") from None
        return ChatChunk(
            tool_calls=tuple(calls), finish_reason=self._finish, usage=usage_from_wire(self._usage)
        )


async def _server_sent(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The data of each event. Raises RemoteModelError when the stream ends without its `[DONE]`."""
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue
        text = line[5:].strip()
        if text == "[DONE]":
            return
        try:
            data = json.loads(text)
        except json.JSONDecodeError:
            raise RemoteModelError(
                "the server sent a chunk that is not JSON", fix="is it OpenAI-compatible?"
            ) from None
        yield data
    raise RemoteModelError("the server broke off its answer", fix="try again")
