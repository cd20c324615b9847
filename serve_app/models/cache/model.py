"""A model whose answers are kept, and given again instead of asking it."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from manta.messages import ChatChunk, ChatRequest, ModelInfo, Usage
from manta.model_settings import CacheSettings
from manta.protocols import ChatModel, Embedder
from manta.telemetry import get_logger
from serve_app.models.cache.answers import Gathering, again, has_calls, packed, unpacked
from serve_app.models.cache.levels import AnswerCache
from serve_app.models.cache.questions import Asked, asked, may_keep
from serve_app.models.cache.shelf import Kept
from serve_app.models.meaning import EMBED_S, meanings

logger = get_logger("models")


@dataclass(slots=True)
class _Question:
    """A request whose answer may be there. `threshold`: None is compared with no other; `vector`: its meaning, once
    that was looked for.
    """

    request: ChatRequest
    version: int
    asked: Asked
    threshold: float | None
    vector: bytes = b""


class CachingModel:
    """A `ChatModel` in front of one that answers. Equal requests that are under way together each ask it.

    Args:
        name: the model's; answers of others, which stood in for it, are not kept.
        answers: one for all models of the process.
        version_of: which version is to answer a request. An answer is kept for the version that gave it, as
            `ChatChunk.by` says, or for this one where nothing is said.
        embedder: None: questions are not compared by their meaning.
    """

    def __init__(
        self,
        inner: ChatModel,
        name: str,
        rules: CacheSettings,
        answers: AnswerCache,
        version_of: Callable[[ChatRequest], int],
        embedder: Embedder | None = None,
    ) -> None:
        self._inner = inner
        self._name = name
        self._rules = rules
        self._answers = answers
        self._version_of = version_of
        self._embedder = embedder

    async def info(self) -> ModelInfo:
        return await self._inner.info()

    async def count_tokens(self, messages: Sequence[Any]) -> int:
        return await self._inner.count_tokens(messages)

    def stats(self) -> dict[str, Any]:
        """See `AnswerCache.stats`."""
        return self._answers.stats(self._name)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        question = self._question(request)
        found = None if question is None else await self._found(question)
        if question is not None and found is not None:
            for chunk in again(found, f"{self._name}@{question.version}"):
                yield chunk
            return
        gathered = Gathering(request.n)
        async with aclosing(self._inner.stream(request)) as chunks:
            async for chunk in chunks:
                if question is not None:
                    gathered.add(chunk)
                    if chunk.usage is not None:
                        # Before it is handed out: nobody needs to ask for what follows the last chunk.
                        self._keep(question, gathered, chunk.usage)
                yield chunk

    def _question(self, request: ChatRequest) -> _Question | None:
        """None if no answer to it is kept."""
        threshold = self._threshold(request)
        wanted = self._rules.exact or threshold is not None
        if not wanted or not may_keep(request, sampled=self._rules.sampled):
            return None
        version = self._version_of(request)
        found = asked(self._name, version, request, compared=threshold is not None)
        return None if found is None else _Question(request, version, found, threshold)

    def _threshold(self, request: ChatRequest) -> float | None:
        """A run's graph decides for its calls, the model's settings for all others."""
        if self._embedder is None:
            return None
        return self._rules.semantic if request.hints.run is None else request.hints.semantic_cache

    async def _found(self, question: _Question) -> tuple[ChatChunk, ...] | None:
        found: Kept | None = None
        if self._rules.exact:
            found = await self._answers.get(self._name, question.asked.key, self._rules)
        if found is None and question.threshold is not None and question.asked.scope:
            found = await self._near(question, question.threshold)
        if found is None:
            return None
        try:
            return unpacked(found.answer)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # Of a shared level that another release of Manta has filled.
            logger.warning("an answer of %s that was kept cannot be read: %s", self._name, error)
            return None

    async def _near(self, question: _Question, threshold: float) -> Kept | None:
        assert self._embedder is not None
        vectors = await meanings(
            self._embedder, [question.asked.text], f"the answers kept of {self._name}", EMBED_S
        )
        if vectors is None:
            self._answers.counts(self._name).embedder_failures += 1
            return None
        question.vector = vectors.tobytes()
        place = _place(question.asked, question.vector)
        return await self._answers.near(self._name, place, question.vector, threshold, self._rules)

    def _keep(self, question: _Question, gathered: Gathering, usage: Usage) -> None:
        answer = gathered.whole(usage)
        version = self._version(question, gathered.by)
        if answer is None or version is None:
            return
        key = question.asked if version == question.version else asked(self._name, version, question.request)
        # What a model wants to do for one question is not what is to be done for another.
        vector = b"" if has_calls(answer) else question.vector
        if key is None or not (self._rules.exact or vector):
            return
        scope = _place(key, vector) if vector else ""
        try:
            data = packed(answer)
        except (ValueError, TypeError, RecursionError) as error:
            logger.warning("an answer of %s cannot be kept: %s", self._name, error)
            return
        kept = Kept(key.tenant, key.key, data, self._rules.ttl_s, scope, vector)
        self._answers.put(self._name, kept, self._rules)

    def _version(self, question: _Question, by: set[str]) -> int | None:
        """Of this model, that answered; None: another model did."""
        if not by:
            return question.version
        model, _, version = next(iter(by)).rpartition("@")
        return int(version) if len(by) == 1 and model == self._name and version.isdecimal() else None


def _place(key: Asked, vector: bytes) -> str:
    """Vectors of another embedder, if they are of another length, are not compared with these."""
    return f"{key.scope}/{len(vector)}"
