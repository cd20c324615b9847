"""The models of the platform by name: which version answers, and who answers in its place."""

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from manta.clock import Clock, SystemClock
from manta.errors import MantaError, NotFound, Overloaded, ReplicaLost, Unavailable
from manta.messages import CallHints, ChatChunk, ChatMessage, ChatRequest, ModelInfo, Usage
from manta.model_settings import RouterSettings
from manta.protocols import ChatModel, Embedder
from serve_app.models.arms import Arm, Routed, Routes, arms_for
from serve_app.models.book import RouteBook
from serve_app.models.cache.actor import RayAnswers
from serve_app.models.cache.levels import AnswerCache
from serve_app.models.cache.model import CachingModel
from serve_app.models.calls.breaker import Breaker
from serve_app.models.calls.faults import counts_against_model
from serve_app.models.calls.resilient import Link, ResilientModel
from serve_app.models.domains.model import DomainModel
from serve_app.models.handles import ServeEmbedder, ServeModel
from serve_app.models.metrics import CacheMetrics
from serve_app.models.outcomes import Outcome, Outcomes
from serve_app.models.registry import Registry

INFO_S = 1.0
"""What a replica is waited for that tells of its model, where that can be left out."""


class PlatformModel:
    """A model as agents and the gateway call it: its route decides for each call which version answers.

    Every method raises NotFound, code `model_not_found`, for a model that is not there.
    """

    def __init__(self, name: str, models: "ServeModels") -> None:
        self._name = name
        self._models = models

    async def info(self) -> ModelInfo:
        """Of the version with the largest share; of one that stands in for it, where that does not answer."""
        *arms, last = await self._models.arms(self._name, CallHints())
        for arm in arms:
            with contextlib.suppress(MantaError, TimeoutError):
                async with asyncio.timeout(INFO_S):
                    return self._told(await self._models.served(arm).info())
        return self._told(await self._models.served(last).info())

    def _told(self, info: ModelInfo) -> ModelInfo:
        return dataclasses.replace(info, id=self._name)

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        served = self._models.served((await self._models.routed(self._name)).primary)
        return await served.count_tokens(messages)

    async def ping(self) -> None:
        """Returns if replicas of every version in the route answer just now; none is started for this."""
        for arm in (await self._models.routed(self._name)).arms.values():
            if arm.settings.replicas.min:
                await self._models.served(arm).ping()

    async def stats(self) -> list[dict[str, Any]]:
        """What every replica of every version in the route counts, and the devices it holds."""
        arms = (await self._models.routed(self._name)).arms.values()
        return [stats for arm in arms for stats in await self._models.served(arm).stats()]

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        arms = await self._models.arms(self._name, request.hints)
        passed_on = False
        try:
            async with aclosing(self._answer(arms, request)) as chunks:
                async for chunk in chunks:
                    passed_on = True
                    yield chunk
            return
        except Overloaded:
            raise
        except (ReplicaLost, Unavailable):
            # Its version may have gone while this process still believed in it.
            again = [] if passed_on else await self._models.arms(self._name, request.hints, fresh=True)
            if not again or set(again) == set(arms):
                raise
        async with aclosing(self._answer(again, request)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _answer(self, arms: Sequence[Arm], request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        return self._models.kept(arms[0], _Asked(self._models, arms)).stream(request)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A `ChatModel`: a chosen version and those behind it, watched where versions are compared."""

    models: "ServeModels"
    arms: Sequence[Arm]

    async def info(self) -> ModelInfo:
        return await self.models.served(self.arms[0]).info()

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        return await self.models.served(self.arms[0]).count_tokens(messages)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        chosen = self.arms[0]
        async with aclosing(self.models.chain(self.arms).stream(request)) as chunks:
            watched = self.models.noted(chosen, chunks) if chosen.compared else chunks
            async with aclosing(watched):
                async for chunk in watched:
                    yield chunk


class ServeModels:
    """The models of the platform by name. Picklable; a handle is made where it is used, and kept.

    Tries and breakers are of this process: they are not shared with others, and begin anew with it.

    Args:
        default: the name that an empty one stands for.
        routers: names that are asked like models and send each question on to one.
        serving: the replicas of a version of a model.
    """

    def __init__(
        self,
        registry: Registry,
        default: str,
        routers: Mapping[str, RouterSettings] | None = None,
        *,
        embedder: Embedder | None = None,
        answers: AnswerCache | None = None,
        clock: Clock | None = None,
        chance: random.Random | None = None,
        serving: Callable[[str, int], ServeModel] = ServeModel,
    ) -> None:
        self._registry = registry
        self._default = default
        self._routers = dict(routers or {})
        self._embedder = embedder or ServeEmbedder()
        self._clock = clock or SystemClock()
        self._chance = chance or random.Random()
        self._book = RouteBook(registry.book, self._clock)
        self._outcomes = Outcomes(registry.record, self._clock)
        self._answers = answers or AnswerCache(self._clock, RayAnswers(), CacheMetrics())
        self._serving = serving
        self._domains: dict[str, DomainModel] = {}
        self._served: dict[str, ServeModel] = {}
        self._links: dict[str, Link] = {}
        self._chains: dict[tuple[str, ...], ResilientModel] = {}
        self._kept_for: Routes | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return ServeModels, (self._registry, self._default, self._routers)

    async def names(self) -> tuple[str, ...]:
        """Of the models that answer. Raises Unavailable while nobody tells them."""
        return tuple(await self._book.routes())

    async def require(self, name: str) -> None:
        """Raises NotFound, code `model_not_found`, for what is neither a model nor a router."""
        if self.resolve(name) not in self._routers:
            await self.routed(self.resolve(name))

    async def windows(self) -> dict[str, int]:
        """Context windows in tokens, as far as they are known: of a model that is split the smallest."""
        routes = await self._book.routes()
        found = await asyncio.gather(*(self._window(routed) for routed in routes.values()))
        return {name: window for name, window in zip(routes, found, strict=True) if window}

    async def _window(self, routed: Routed) -> int:
        return min(await asyncio.gather(*(self._window_of(arm) for arm in routed.arms.values())))

    async def _window_of(self, arm: Arm) -> int:
        """0: it is not configured, and no replica is up to be asked. None is started for this."""
        if arm.settings.context_window or not arm.settings.replicas.min:
            return arm.settings.context_window
        try:
            async with asyncio.timeout(INFO_S):
                return (await self.served(arm).info()).context_window
        except (MantaError, TimeoutError):
            return 0

    def resolve(self, name: str) -> str:
        return name or self._default

    @property
    def routers(self) -> Mapping[str, RouterSettings]:
        return self._routers

    def get(self, name: str) -> "PlatformModel | DomainModel":
        """A model or a router; whether it is there is seen when it is asked."""
        name = self.resolve(name)
        return self._router(name) if name in self._routers else PlatformModel(name, self)

    def _router(self, name: str) -> DomainModel:
        if name not in self._domains:
            self._domains[name] = DomainModel(
                name, self._routers[name], self.get, self._embedder, self._clock
            )
        return self._domains[name]

    def replicas_of(self, name: str) -> PlatformModel:
        """A model that has some; a router has none of its own."""
        return PlatformModel(name, self)

    async def routed(self, name: str, *, fresh: bool = False) -> Routed:
        """Raises NotFound, code `model_not_found`, once the registry itself was asked."""
        return (await self._with(name, fresh=fresh))[name]

    async def arms(self, name: str, hints: CallHints, *, fresh: bool = False) -> list[Arm]:
        """Who is asked for a call with these hints, in order. Raises NotFound likewise."""
        routes = await self._with(name, fresh=fresh)
        return arms_for(routes, name, hints, self._chance.random)

    async def _with(self, name: str, *, fresh: bool) -> Routes:
        routes = await (self._book.fresh() if fresh else self._book.routes())
        if name not in routes:
            routes = await self._book.fresh()
        if name not in routes:
            known = ", ".join(routes)
            raise NotFound(f"there is no model {name!r}", fix=f"one of: {known}", code="model_not_found")
        self._forget_others(routes)
        return routes

    def _forget_others(self, routes: Routes) -> None:
        """A version that answers no more keeps no handle here."""
        if routes is self._kept_for:
            return
        for gone in set(self._kept_for or ()) - set(routes):
            self._answers.forget(gone)
        self._kept_for = routes
        names = {arm.name for routed in routes.values() for arm in routed.arms.values()}
        self._served = {name: served for name, served in self._served.items() if name in names}
        self._links = {name: link for name, link in self._links.items() if name in names}
        self._chains = {}

    def served(self, arm: Arm) -> ServeModel:
        if arm.name not in self._served:
            self._served[arm.name] = self._serving(arm.model, arm.version)
        return self._served[arm.name]

    def kept(self, chosen: Arm, model: ChatModel) -> CachingModel:
        """The model with the answers before it that are kept of the chosen version."""
        rules = chosen.settings.cache
        return CachingModel(
            model, chosen.model, rules, self._answers, lambda request: chosen.version, self._embedder
        )

    def chain(self, arms: Sequence[Arm]) -> ResilientModel:
        names = tuple(arm.name for arm in arms)
        if names not in self._chains:
            self._chains[names] = ResilientModel(
                [self._link(arm) for arm in arms],
                on_length=arms[0].rules.on_length,
                clock=self._clock,
                chance=self._chance,
            )
        return self._chains[names]

    def _link(self, arm: Arm) -> Link:
        if arm.name not in self._links:
            breaker = Breaker(arm.name, arm.rules.breaker, self._clock)
            self._links[arm.name] = Link(arm.name, self.served(arm), arm.rules.retry, breaker, arm.price)
        return self._links[arm.name]

    async def noted(
        self, chosen: Arm, chunks: AsyncGenerator[ChatChunk, None]
    ) -> AsyncGenerator[ChatChunk, None]:
        """The chunks as they come, seen for the comparison of versions. A caller that leaves is not counted."""
        began = self._clock.monotonic()
        first_s: float | None = None
        by = ""
        usage: Usage | None = None
        try:
            async for chunk in chunks:
                if first_s is None:
                    first_s, by = self._clock.monotonic() - began, chunk.by
                usage = chunk.usage or usage
                yield chunk
        except MantaError as error:
            if counts_against_model(error) or isinstance(error, ReplicaLost):
                self._note(chosen, Outcome(failed=True))
            raise
        total_s = self._clock.monotonic() - began
        self._note(chosen, Outcome(by != chosen.name, first_s, total_s, usage))

    def _note(self, chosen: Arm, outcome: Outcome) -> None:
        self._outcomes.note(chosen.model, chosen.revision, chosen.version, outcome)
