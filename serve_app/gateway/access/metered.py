"""Models and the embedder as one key may use them: tokens are reserved before a call and settled after it."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from coordinator.store.key_records import Spent
from manta.messages import ChatChunk, ChatRequest, to_json
from manta.protocols import ChatModel
from manta.usage import Price, Usage
from serve_app.gateway.access.accounts import Account

UNBOUNDED_TOKENS = 256
"""Reserved for each answer whose request sets no bound; more is owed afterwards."""
BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4


def expected_usage(request: ChatRequest) -> Usage:
    """What a call may use, without asking the model: the prompt by its length, the answers by their bound."""
    output = request.n * (UNBOUNDED_TOKENS if request.max_tokens is None else request.max_tokens)
    return Usage(expected_prompt(request), output, model_calls=request.n)


def expected_prompt(request: ChatRequest) -> int:
    if request.prompt_ids:
        return len(request.prompt_ids)
    if request.prompt is not None:
        return expected_tokens(request.prompt)
    content = sum(expected_tokens(message.content) + TOKENS_PER_MESSAGE for message in request.messages)
    calls = [to_json(message.tool_calls) for message in request.messages if message.tool_calls]
    return content + sum(expected_tokens(json.dumps(part)) for part in (*calls, *map(to_json, request.tools)))


def expected_tokens(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN + 1


class MeteredModels:
    """`ServeModels` for one key."""

    def __init__(self, models: Any, account: Account) -> None:
        self._models, self._account = models, account

    def __getattr__(self, name: str) -> Any:
        return getattr(self._models, name)

    def get(self, name: str) -> "MeteredModel":
        return MeteredModel(self._models.get(name), self._account)


class MeteredModel:
    """A model for one key; whatever else it can do than to answer is as it is."""

    def __init__(self, model: ChatModel, account: Account) -> None:
        self._model, self._account = model, account

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        """Raises RateLimited and BudgetExceeded before the first chunk."""
        price = (await self._model.info()).price
        expected = expected_usage(request)
        reservation = self._account.reserve(_spent(expected, price))
        seen, told = Usage(), False
        try:
            async with aclosing(self._model.stream(request)) as chunks:
                async for chunk in chunks:
                    # What a call that is cut off has used is not told: by then every chunk counts for itself.
                    seen = chunk.usage or _with(seen, chunk, expected.input_tokens)
                    told = chunk.usage is not None and bool(chunk.by)
                    yield chunk
        finally:
            # A model that stood in for this one has told its own price.
            self._account.settle(reservation, _spent(seen, Price() if told else price))


class MeteredEmbedder:
    """The embedder for one key. Its tokens have no price."""

    def __init__(self, embedder: Any, account: Account) -> None:
        self._embedder, self._account = embedder, account

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)

    async def embed_counted(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        reservation = self._account.reserve(Spent(sum(map(expected_tokens, texts))))
        tokens = 0
        try:
            vectors, tokens = await self._embedder.embed_counted(texts)
        finally:
            self._account.settle(reservation, Spent(tokens))
        return vectors, tokens


def _with(seen: Usage, chunk: ChatChunk, prompt: int) -> Usage:
    written = max(1, (len(chunk.text) + len(chunk.reasoning)) // BYTES_PER_TOKEN)
    return Usage(prompt, seen.output_tokens + written)


def _spent(usage: Usage, price: Price) -> Spent:
    micros = usage.cost_micros or price.micros(usage)
    return Spent(usage.input_tokens + usage.output_tokens, micros)
