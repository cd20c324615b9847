"""What the tests of the routes under /v1 share: a model that says given chunks, and OpenAI's own client."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import httpx
import openai

from manta.messages import ChatChunk, ChatRequest, ModelInfo, TokenLogprob, Usage
from tests.gateway.platform import BASE, Local

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}
SUB = {"type": "function", "function": {"name": "sub", "parameters": {"type": "object"}}}
USAGE = Usage(3, 2, 1, model_calls=1)


class SaysChunks:
    """A model whose every answer is `chunks`. One waits for `gate` before its second chunk, if there is one."""

    def __init__(self, *chunks: ChatChunk, gate: asyncio.Event | None = None) -> None:
        self.chunks: Sequence[ChatChunk] = chunks
        self.requests: list[ChatRequest] = []
        self.cut_short = 0
        self.gate = gate

    async def info(self) -> ModelInfo:
        return ModelInfo("says", 4096)

    async def count_tokens(self, messages: Sequence[object]) -> int:
        return len(messages)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        self.requests.append(request)
        ended = False
        try:
            for number, chunk in enumerate(self.chunks):
                if number == 1 and self.gate is not None:
                    await self.gate.wait()
                await asyncio.sleep(0)
                yield chunk
            ended = True
        finally:
            self.cut_short += not ended


def text(*pieces: str, finish: str = "stop") -> tuple[ChatChunk, ...]:
    return (*(ChatChunk(piece) for piece in pieces), ChatChunk(finish_reason=finish, usage=USAGE))


def token(piece: str, logprob: float) -> ChatChunk:
    return ChatChunk(
        piece, logprobs=(TokenLogprob(piece, 7, logprob, ([piece, 7, logprob], ["x", 8, -3.0])),)
    )


def client(local: Local) -> openai.AsyncOpenAI:
    """OpenAI's client, on the platform's own API."""
    http = httpx.AsyncClient(transport=httpx.ASGITransport(local.api, raise_app_exceptions=False))
    return openai.AsyncOpenAI(base_url=f"{BASE}/v1", api_key="none", max_retries=0, http_client=http)


def events(body: str) -> list[dict[str, Any]]:
    """The data of each server-sent event; what is no JSON is left out."""
    lines = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]
