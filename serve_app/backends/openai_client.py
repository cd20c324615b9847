"""The one client of OpenAI-compatible servers, elsewhere or started by a replica itself."""

import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

import httpx

from manta.addresses import shown_url
from manta.config import ModelSettings, secret
from manta.errors import RemoteModelError
from manta.messages import ChatChunk, ChatMessage, ChatRequest
from serve_app.backends.openai_answers import Answer, server_sent
from serve_app.backends.refusal import refusal, told_pause_s
from serve_app.backends.server_dialects import dialect_of, spoken
from serve_app.openai_wire import message_to_wire, request_to_wire

DEFAULT_WINDOW = 8192
"""Tokens, where neither the settings nor the server tell."""
CHARACTERS_PER_TOKEN = 3
"""A cautious estimate, where the server's own tokenizer is out of reach."""
TOKENS_PER_MESSAGE = 4
ASKING_TIMEOUT_S = 5.0
"""For questions about the server itself; the answers only refine what is known without them."""
ASK_AGAIN_S = 60.0
"""How long a server that did not answer such a question is left in peace."""

_TOKENIZING = frozenset({"openai", "vllm"})
"""Dialects of servers that may have vLLM's `/tokenize`; others mean another thing by the name, or nothing."""


def estimate(messages: Sequence[ChatMessage]) -> int:
    """Tokens of messages, roughly, from their characters and those of their tool calls."""
    characters = sum(len(message.content) + sum(map(_length, message.tool_calls)) for message in messages)
    return characters // CHARACTERS_PER_TOKEN + TOKENS_PER_MESSAGE * len(messages)


def _length(call: Any) -> int:
    return len(call.name) + len(str(call.arguments))


class OpenAIClient:
    """One model of one server. Errors are ModelErrors; nothing is tried twice, that is for the caller to decide.

    Args:
        name: this model's, for errors.
        model: the server's name of it.
        base_url: up to and with `/v1`.
        dialect: see `serve_app.backends.server_dialects`.
        fix: what to do when the server cannot be reached.
        now: monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        model: str,
        base_url: str,
        *,
        dialect: str = "openai",
        key: str = "",
        timeout_s: float = 120,
        fix: str = "",
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._model = model
        self._base_url = base_url.rstrip("/")
        self._root = self._base_url.removesuffix("/v1")
        self._dialect = dialect
        self._fix = fix or f"check models.{name}.base_url"
        self._tokenizes = _Question(now)
        self._lists = _Question(now)
        self._window = 0
        self._http = httpx.AsyncClient(
            base_url=f"{self._base_url}/",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=timeout_s,
            trust_env=False,
        )

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        """The answer in pieces. Raises RemoteModelError, ContextLengthExceeded, InvalidInput."""
        body = spoken(request_to_wire(request, self._model, stream=True), self._dialect)
        path = "completions" if "prompt" in body else "chat/completions"
        one_call = request.named_tool is not None or not request.parallel_tool_calls
        answer = Answer(one_call=one_call, must_call=request.must_call)
        try:
            async with self._http.stream("POST", path, json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    refused = refusal(self._name, response.status_code, response.text, named_by="model")
                    refused.retry_after_s = told_pause_s(response.headers.get("retry-after", ""))
                    raise refused
                async for data in server_sent(response):
                    chunk = answer.add(data)
                    if chunk is not None:
                        yield chunk
        except httpx.HTTPError as error:
            where, why = shown_url(self._base_url), f"{type(error).__name__}: {error}"
            cause = f"model {self._name}: {where} cannot be reached: {why}"
            raise RemoteModelError(cause, fix=self._fix) from None
        yield answer.last()

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        """By the server's own tokenizer where it has vLLM's `/tokenize`, else an estimate from the characters."""
        if self._dialect in _TOKENIZING:
            body = {"model": self._model, "messages": [message_to_wire(message) for message in messages]}
            told = await self._tokenizes.ask(self._http, "POST", f"{self._root}/tokenize", json=body)
            if isinstance(told.get("count"), int):
                return int(told["count"])
        return estimate(messages)

    async def window(self) -> int | None:
        """The context window in tokens, where the server's `/models` tells it."""
        if not self._window:
            told = await self._lists.ask(self._http, "GET", "models")
            listed = [entry for entry in told.get("data") or () if isinstance(entry, dict)]
            ours = [entry for entry in listed if entry.get("id") == self._model]
            self._window = _window_of(ours[0] if ours else listed[0] if len(listed) == 1 else {})
        return self._window or None


class _Question:
    """A question that not every server answers. One that does not know it is not asked again, one that failed not
    for a while.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._quiet_until = 0.0

    async def ask(self, http: httpx.AsyncClient, method: str, url: str, **request: Any) -> Mapping[str, Any]:
        """The JSON object of the answer; empty when there is none."""
        if self._now() < self._quiet_until:
            return {}
        try:
            response = await http.request(method, url, timeout=ASKING_TIMEOUT_S, **request)
            told = response.json() if response.status_code == 200 else None
        except (httpx.HTTPError, ValueError):
            self._quiet_until = self._now() + ASK_AGAIN_S
            return {}
        if isinstance(told, dict):
            return told
        passing = response.status_code >= 500 or response.status_code == 429
        self._quiet_until = self._now() + ASK_AGAIN_S if passing else math.inf
        return {}


def _window_of(entry: Mapping[str, Any]) -> int:
    """0 when the entry tells none."""
    # vLLM and SGLang, Manta and others, llama.cpp.
    meta = entry.get("meta")
    told = [entry.get("max_model_len"), entry.get("context_window"), entry.get("context_length")]
    told.append(meta.get("n_ctx") if isinstance(meta, dict) else None)
    return next((size for size in told if isinstance(size, int) and size > 0), 0)


def client_for(
    name: str, settings: ModelSettings, model: str, base_url: str, *, fix: str = ""
) -> OpenAIClient:
    """The client of a model's server, by its settings. Raises InvalidConfig where its key is not set."""
    return OpenAIClient(
        name,
        model,
        base_url,
        dialect=dialect_of(settings),
        key=secret(settings.api_key_env) if settings.api_key_env else "",
        timeout_s=settings.timeout_s,
        fix=fix,
    )
