"""The level of kept answers that gateways and agents share: a detached Ray actor, made when it is first wanted."""

import asyncio
from collections.abc import Callable
from typing import Any

import ray
import ray.exceptions

from manta.clock import Clock, SystemClock
from manta.detached import detached
from serve_app.models.cache.shelf import Kept, Shelves
from tools.ray_calls import NAMESPACE

CACHE_ACTOR = "manta-cache"
MAX_PENDING = 1000
"""Calls of one process that may wait for it; what is told beyond them is lost."""


class CacheActor:
    """One set of shelves. All methods run on one event loop, and none of them waits.

    What it keeps is lost when it dies; it is only a cache.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._shelves = Shelves()
        self._clock = clock or SystemClock()

    async def get(self, model: str, key: str) -> Kept | None:
        return self._shelves.of(model).get(key, self._clock.monotonic())

    async def near(self, model: str, scope: str, vector: bytes, threshold: float) -> Kept | None:
        return self._shelves.of(model).near(scope, vector, threshold, self._clock.monotonic())

    async def put(self, model: str, kept: Kept, max_bytes: int) -> None:
        self._shelves.of(model).put(kept, max_bytes, self._clock.monotonic())

    async def forget(self, model: str) -> None:
        self._shelves.forget(model)

    async def stats(self, model: str) -> dict[str, int]:
        """What it has of a model: `answers` and `bytes`, and how many were `evicted` for others."""
        shelf = self._shelves.of(model)
        return {"answers": len(shelf), "bytes": shelf.bytes, "evicted": shelf.evicted}


def actor_options() -> dict[str, Any]:
    return {
        "name": CACHE_ACTOR,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "max_restarts": -1,
        "max_pending_calls": MAX_PENDING,
        "num_cpus": 0.05,
    }


def start_cache() -> Any:
    """The actor's handle; it is made if it is not there. Blocks on Ray's control service."""
    actor_class: Any = ray.remote(CacheActor)
    return actor_class.options(**actor_options()).remote()


class RayAnswers:
    """`SharedAnswers` in the actor. Picklable; the actor is looked for where it is used.

    Until it is found, which nobody waits for, there is nothing in it.
    """

    def __init__(self, start: Callable[[], Any] = start_cache) -> None:
        self._start = start
        self._handle: Any = None
        self._finding: asyncio.Task[None] | None = None
        self._trouble: Exception | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return RayAnswers, (self._start,)

    async def get(self, model: str, key: str) -> Kept | None:
        return await self._ask("get", model, key)

    async def near(self, model: str, scope: str, vector: bytes, threshold: float) -> Kept | None:
        return await self._ask("near", model, scope, vector, threshold)

    def put(self, model: str, kept: Kept, max_bytes: int) -> None:
        self._tell("put", model, kept, max_bytes)

    def forget(self, model: str) -> None:
        self._tell("forget", model)

    async def _ask(self, method: str, *arguments: Any) -> Kept | None:
        """Raises what Ray raises."""
        handle = self._found()
        if handle is None:
            return None
        try:
            found: Kept | None = await getattr(handle, method).remote(*arguments)
        except ray.exceptions.RayActorError:
            # If it was killed for good, another has its name, or will.
            self._handle = None
            raise
        return found

    def _tell(self, method: str, *arguments: Any) -> None:
        handle = self._found()
        if handle is not None:
            getattr(handle, method).remote(*arguments)

    def _found(self) -> Any:
        """None while it is being looked for. Raises what was in the way of that."""
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise trouble
        if self._handle is None and self._finding is None:
            self._finding = detached(self._find())
        return self._handle

    async def _find(self) -> None:
        try:
            self._handle = await asyncio.to_thread(self._start)
        except Exception as error:
            self._trouble = error
        finally:
            self._finding = None
