"""A router as a model: it asks, for each question, the model of its domain."""

import asyncio
import dataclasses
import math
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manta.clock import Clock, SystemClock
from manta.detached import detached
from manta.errors import MantaError
from manta.ids import RunId
from manta.messages import ChatChunk, ChatRequest, ModelInfo
from manta.model_settings import RouterSettings
from manta.protocols import ChatModel, Embedder
from serve_app.models.domains.choice import OTHERWISE, choose_domain, common_info, question_of
from serve_app.models.meaning import EMBED_S, meanings

EXAMPLES_S = 15.0
"""What the meanings of all examples are waited for, by those who ask first."""
INFO_S = 2.0
"""What a domain's model may take to say what it can do."""
AGAIN_S = 10.0
"""Who did not answer is asked again after so long."""
RUNS_KEPT = 10_000
"""Runs whose last choice is remembered in this process."""


class DomainModel:
    """A `ChatModel` over several. While nothing is told of a question's meaning, `otherwise` answers.

    Args:
        name: the router's.
        model: the model of a name, as callers get it.
    """

    def __init__(
        self,
        name: str,
        rules: RouterSettings,
        model: Callable[[str], ChatModel],
        embedder: Embedder,
        clock: Clock | None = None,
    ) -> None:
        self._name = name
        self._rules = rules
        self._model = model
        self._embedder = embedder
        self._examples: dict[str, NDArray[np.float32]] = {}
        self._clock = clock or SystemClock()
        self._reading: asyncio.Task[None] | None = None
        self._quiet_until = self._clock.monotonic()
        self._late: dict[str, float] = {}
        """Models that did not say what they can do, and when they are asked again."""
        self._choices: OrderedDict[RunId, str] = OrderedDict()
        self._chosen: Counter[str] = Counter()
        self._embedder_failures = 0

    async def info(self) -> ModelInfo:
        """Of `otherwise`, with what holds for all: the smallest window, the common abilities, the highest price.

        A domain's model that does not answer, or has no replica just now, is left out: questions of other domains
        go on.
        """
        otherwise, *rest = self._rules.models
        first, others = await asyncio.gather(
            self._model(otherwise).info(), asyncio.gather(*map(self._info_of, rest))
        )
        return common_info(first, [info for info in others if info is not None])

    async def _info_of(self, name: str) -> ModelInfo | None:
        if self._clock.monotonic() < self._late.get(name, -math.inf):
            return None
        try:
            async with asyncio.timeout(INFO_S):
                return await self._model(name).info()
        except (MantaError, TimeoutError):
            self._late[name] = self._clock.monotonic() + AGAIN_S
            return None

    async def count_tokens(self, messages: Sequence[Any]) -> int:
        """As `otherwise` counts."""
        return await self._model(self._rules.otherwise).count_tokens(messages)

    def stats(self) -> dict[str, Any]:
        """Since this process began: questions `chosen` for each domain, those of none under an empty name, and how
        often the embedder failed.
        """
        return {"chosen": dict(self._chosen), "embedder_failures": self._embedder_failures}

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        domain = await self.domain(request)
        self._chosen[domain] += 1
        name = self._rules.otherwise if domain == OTHERWISE else self._rules.domains[domain].model
        async with aclosing(self._model(name).stream(dataclasses.replace(request, model=name))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def domain(self, request: ChatRequest) -> str:
        """Whose question it is; `OTHERWISE` is nobody's."""
        run = request.hints.run
        vectors = await self._vectors(question_of(request))
        if vectors is None:
            return OTHERWISE
        vector, examples = vectors
        before = None if run is None else self._choices.get(run)
        chosen = choose_domain(vector, examples, self._rules.threshold, before)
        if run is not None:
            self._remember(run, chosen)
        return chosen

    def _remember(self, run: RunId, chosen: str) -> None:
        self._choices[run] = chosen
        self._choices.move_to_end(run)
        if len(self._choices) > RUNS_KEPT:
            self._choices.popitem(last=False)

    async def _vectors(
        self, question: str
    ) -> tuple[NDArray[np.float32], Mapping[str, NDArray[np.float32]]] | None:
        """The question's and the examples'; None if there is no question, or the embedder did not say."""
        if not question:
            return None
        examples = await self._known_examples()
        asked = None
        if examples:
            asked = await meanings(self._embedder, [question], f"the router {self._name}", EMBED_S)
        if asked is None:
            self._embedder_failures += 1
            return None
        return asked[0], examples

    async def _known_examples(self) -> Mapping[str, NDArray[np.float32]]:
        """Asked for once, by one for all; again only after it failed. Empty: it failed."""
        if not self._examples and self._clock.monotonic() >= self._quiet_until:
            if self._reading is None:
                self._reading = detached(self._read())
            await asyncio.shield(self._reading)
        return self._examples

    async def _read(self) -> None:
        try:
            self._examples = await self._embedded()
            if not self._examples:
                self._quiet_until = self._clock.monotonic() + AGAIN_S
        finally:
            self._reading = None

    async def _embedded(self) -> dict[str, NDArray[np.float32]]:
        domains = self._rules.domains
        texts = [text for domain in domains.values() for text in domain.examples]
        vectors = await meanings(
            self._embedder, texts, f"the examples of the router {self._name}", EXAMPLES_S
        )
        if vectors is None:
            return {}
        ends = np.cumsum([len(domain.examples) for domain in domains.values()])
        return dict(zip(domains, np.split(vectors, ends[:-1]), strict=True))
