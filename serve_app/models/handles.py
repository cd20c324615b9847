"""Models and the embedder as others see them: protocols over Serve handles, found by name at run time."""

import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import ray.exceptions
from ray import serve
from ray.serve.exceptions import BackPressureError, RayServeException

from manta.clock import Clock, SystemClock
from manta.errors import NotFound, ReplicaLost, Unavailable
from manta.messages import ChatChunk, ChatMessage, ChatRequest, ModelInfo
from serve_app.models.calls.breaker import Breaker
from serve_app.models.calls.resilient import Link, ResilientModel
from serve_app.models.calls.rules import CallRules, chain
from serve_app.models.deployment import DEPLOYMENT
from tools.ray_calls import unwrap

EMBEDDER_APP = "embedder"


def model_app(name: str) -> str:
    """The Serve application of a model."""
    return f"model-{name}"


class ServeModel:
    """A `ChatModel` over the replicas of one model."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._handle: Any = None
        self._streaming: Any = None
        self._info: ModelInfo | None = None

    def _replicas(self) -> Any:
        if self._handle is None:
            self._handle = serve.get_deployment_handle(DEPLOYMENT, app_name=model_app(self._name))
            # Every options() makes a handle with a router of its own, so this one is kept too.
            self._streaming = self._handle.options(stream=True)
        return self._handle

    async def info(self) -> ModelInfo:
        if self._info is None:
            self._info = await self._ask("info")
        return self._info

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        counted: int = await self._ask("count_tokens", tuple(messages))
        return counted

    async def ping(self) -> None:
        """Returns if a replica answers just now; `info` may come from memory."""
        await self._ask("info")

    async def stats(self) -> list[dict[str, Any]]:
        """What every replica counts, and the devices it holds."""
        try:
            return list(await self._replicas().broadcast("stats").results_async())
        except Exception as error:
            raise _translated(self._name, error) from None

    async def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            return await getattr(self._replicas(), method).remote(*arguments)
        except Exception as error:
            raise _translated(self._name, error) from None

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        response: Any = None
        ended = False
        try:
            self._replicas()
            response = self._streaming.stream.remote(request)
            async for chunk in response:
                # The last of all; with several answers each of them has an end of its own before.
                ended = chunk.usage is not None
                yield chunk
        except (ray.exceptions.RayError, RayServeException) as error:
            raise _translated(self._name, error) from None
        finally:
            if response is not None and not ended:
                # Nothing else stops the replica: not a break out of the loop, not the caller's own cancellation.
                response.cancel()


class PlatformModel(ResilientModel):
    """A model as agents and the gateway call it. What operators ask is about its own replicas only."""

    def __init__(self, served: ServeModel, links: Sequence[Link], **options: Any) -> None:
        super().__init__(links, **options)
        self._served = served

    async def ping(self) -> None:
        await self._served.ping()

    async def stats(self) -> list[dict[str, Any]]:
        return await self._served.stats()


class ServeModels:
    """The models of the platform by name. Picklable; a handle is made where it is used, and kept.

    Tries and breakers are of this process: they are not shared with others, and begin anew with it.

    Args:
        rules: of each model's calls; the defaults for those that are not there.
    """

    def __init__(
        self,
        names: Sequence[str],
        default: str,
        rules: Mapping[str, CallRules] | None = None,
        *,
        clock: Clock | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self._names = tuple(names)
        self._default = default
        self._rules = dict(rules or {})
        self._clock = clock or SystemClock()
        self._chance = chance or random.Random()
        self._served: dict[str, ServeModel] = {}
        self._links: dict[str, Link] = {}
        self._made: dict[str, PlatformModel] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return ServeModels, (self._names, self._default, self._rules)

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def resolve(self, name: str) -> str:
        return name or self._default

    def get(self, name: str) -> PlatformModel:
        name = self.resolve(name)
        if name not in self._names:
            raise NotFound(
                f"there is no model {name!r}", fix=f"one of: {', '.join(self._names)}", code="model_not_found"
            )
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> PlatformModel:
        fallbacks = {other: rules.fallbacks for other, rules in self._rules.items()}
        links = [self._link(other) for other in chain(name, fallbacks)]
        return PlatformModel(
            self._served[name],
            links,
            on_length=self._rules_of(name).on_length,
            clock=self._clock,
            chance=self._chance,
        )

    def _link(self, name: str) -> Link:
        if name not in self._links:
            rules = self._rules_of(name)
            served = self._served[name] = ServeModel(name)
            breaker = Breaker(name, rules.breaker, self._clock)
            self._links[name] = Link(name, served, rules.retry, breaker)
        return self._links[name]

    def _rules_of(self, name: str) -> CallRules:
        return self._rules.get(name, CallRules())


class ServeEmbedder:
    """An `Embedder` over the replicas of the embedding deployment."""

    dimensions = 384

    def __init__(self) -> None:
        self._handle: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return ServeEmbedder, ()

    def _replicas(self) -> Any:
        if self._handle is None:
            self._handle = serve.get_deployment_handle(DEPLOYMENT, app_name=EMBEDDER_APP)
        return self._handle

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return (await self.embed_counted(texts))[0]

    async def embed_counted(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """One vector per text, and the model's tokens that were read for all of them."""
        try:
            counted: tuple[list[list[float]], int] = await self._replicas().embed_counted.remote(list(texts))
            return counted
        except (ray.exceptions.RayError, RayServeException) as error:
            raise _translated("embedder", error) from None

    async def stats(self) -> list[dict[str, Any]]:
        """What every replica counts: `texts`, `passes` of the model, `tokens`; and where it is."""
        try:
            return list(await self._replicas().broadcast("stats").results_async())
        except Exception as error:
            raise _translated("embedder", error) from None


def _translated(name: str, error: Exception) -> Exception:
    """What went wrong between here and a replica, as an error of ours."""
    if isinstance(error, ray.exceptions.RayTaskError):
        return unwrap(error)
    if isinstance(error, BackPressureError):
        return Unavailable(
            f"model {name} has too many requests waiting", fix="try again later", code="overloaded"
        )
    if isinstance(error, ray.exceptions.RayError | RayServeException):
        cause = " ".join(str(error).split())[:200]
        return ReplicaLost(f"a replica of {name} was lost: {cause}", fix="it is replaced; try again")
    return error
