"""What the tests of kept answers share: a model that counts its calls, vectors that are made up, requests."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from manta.clock import ManualClock
from manta.config import CacheSettings
from manta.errors import Unavailable
from manta.messages import CallHints, ChatChunk, ChatMessage, ChatRequest, ModelInfo, Usage
from manta.protocols import ChatModel
from serve_app.engine.embeddings import SentenceEmbedder
from serve_app.engine.weights import embedded_embedder_path
from serve_app.models.cache.levels import AnswerCache
from serve_app.models.cache.model import CachingModel
from serve_app.models.cache.shared import SharedAnswers
from serve_app.models.cache.shelf import Kept, Shelves

EXACT = CacheSettings(exact=True)
ANSWER = (
    ChatChunk("The tide ", by="local@1"),
    ChatChunk("is high."),
    ChatChunk(finish_reason="stop", usage=Usage(7, 4, 2, cost_micros=900), by="local@1"),
)


class Counting:
    """Gives the same chunks each time, or what a function of the request says."""

    def __init__(self, chunks: Any = ANSWER) -> None:
        self._chunks = chunks
        self.asked: list[ChatRequest] = []

    async def info(self) -> ModelInfo:
        return ModelInfo("local", 100)

    async def count_tokens(self, messages: Sequence[Any]) -> int:
        return len(messages)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        self.asked.append(request)
        chunks = self._chunks(request) if callable(self._chunks) else self._chunks
        for chunk in chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


class MadeUp:
    """An embedder that was told what each text means."""

    dimensions = 3

    def __init__(self, meanings: Mapping[str, Sequence[float]]) -> None:
        self._meanings = meanings
        self.asked: list[str] = []

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.asked += texts
        return [list(self._meanings[text]) for text in texts]


def real_embedder(texts: Iterable[str]) -> MadeUp:
    """What the embedded MiniLM makes of these texts, all in one pass."""
    listed = list(texts)
    embedder = SentenceEmbedder.load(embedded_embedder_path(), dtype="float32", threads=1)
    return MadeUp(dict(zip(listed, embedder.encode(listed).tolist(), strict=True)))


class Broken:
    """An embedder that is not there, or never answers, or answers nonsense."""

    dimensions = 3

    def __init__(self, how: Any) -> None:
        self._how = how
        self.asked = 0

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.asked += 1
        if self._how == "silent":
            await asyncio.Event().wait()
        if isinstance(self._how, Exception):
            raise self._how
        return self._how


class InOneProcess:
    """The shared level without its actor. `trouble` is raised by every call; `silent`: no look ends."""

    def __init__(self, clock: ManualClock) -> None:
        self._shelves = Shelves()
        self._clock = clock
        self.trouble: Exception | None = None
        self.silent = False
        self.looks = 0

    async def get(self, model: str, key: str) -> Kept | None:
        await self._begin()
        return self._shelves.of(model).get(key, self._clock.monotonic())

    async def near(self, model: str, scope: str, vector: bytes, threshold: float) -> Kept | None:
        await self._begin()
        return self._shelves.of(model).near(scope, vector, threshold, self._clock.monotonic())

    def put(self, model: str, kept: Kept, max_bytes: int) -> None:
        if self.trouble is not None:
            raise self.trouble
        self._shelves.of(model).put(kept, max_bytes, self._clock.monotonic())

    def forget(self, model: str) -> None:
        self._shelves.forget(model)

    async def _begin(self) -> None:
        self.looks += 1
        if self.silent:
            await asyncio.Event().wait()
        if self.trouble is not None:
            raise self.trouble


def question(text: str = "How high is the tide?", **fields: Any) -> ChatRequest:
    """`hints` may be given by their names."""
    names = {field.name for field in dataclasses.fields(CallHints)}
    hints = CallHints(**{name: fields.pop(name) for name in list(fields) if name in names})
    before = fields.pop("before", ())
    return ChatRequest((*before, ChatMessage("user", text)), hints=hints, **fields)


def caching(
    inner: ChatModel,
    rules: CacheSettings = EXACT,
    *,
    clock: ManualClock | None = None,
    shared: SharedAnswers | None = None,
    **options: Any,
) -> CachingModel:
    """A model of a process of its own."""
    answers = options.pop("answers", None) or AnswerCache(clock or ManualClock(), shared)
    options.setdefault("version_of", lambda request: 1)
    return CachingModel(inner, options.pop("name", "local"), rules, answers, **options)


async def chunks_of(model: ChatModel, request: ChatRequest) -> list[ChatChunk]:
    async with aclosing(model.stream(request)) as chunks:
        return [chunk async for chunk in chunks]


async def text_of(model: ChatModel, request: ChatRequest) -> str:
    return "".join([chunk.text for chunk in await chunks_of(model, request)])


NOT_THERE = Unavailable("not there")
