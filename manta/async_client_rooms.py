"""Parts of the client that awaits; they mirror `manta.client_rooms`."""

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from manta.wire import (
    Call,
    Comparison,
    Item,
    Model,
    ModelRoute,
    ModelVersion,
    Schedule,
    Thread,
    ThreadState,
    library,
    model_versions,
    threads,
)

T = TypeVar("T")


class Sender(Protocol):
    """A client's way to send a call."""

    async def __call__(self, call: Call[T]) -> T: ...


class Threads:
    """Conversations over runs. A run works on one by `submit(..., thread=ID)`."""

    def __init__(self, send: Sender) -> None:
        self._send = send

    async def create(
        self,
        thread_id: str | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        exist_ok: bool = False,
    ) -> Thread:
        """A new thread. Raises Conflict (`thread_exists`) when it is there, unless that is ok."""
        # With an id that is made here a repeated request finds what the first has made.
        known = thread_id or str(uuid.uuid4())
        return await self._send(threads.create(known, metadata, exist_ok or thread_id is None))

    async def get(self, thread_id: str) -> Thread:
        return await self._send(threads.get(thread_id))

    async def search(
        self,
        *,
        metadata: Mapping[str, Any] | None = None,
        values: Mapping[str, Any] | None = None,
        status: str | None = None,
        limit: int = 20,
        offset: int = 0,
    ) -> Sequence[Thread]:
        """Newest first; entries of `metadata` and `values` must all be there with exactly these values."""
        return await self._send(threads.search(metadata, values, status, limit, offset))

    async def history(
        self, thread_id: str, *, limit: int = 10, before: str | None = None
    ) -> Sequence[ThreadState]:
        """Its states, newest first; with `before` those older than that checkpoint."""
        return await self._send(threads.history(thread_id, limit, before))

    async def patch(
        self,
        thread_id: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        values: Mapping[str, Any] | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        checkpoint: str | None = None,
    ) -> Thread:
        """Merges metadata; values and messages make a new state, on the latest or on `checkpoint`."""
        return await self._send(threads.patch(thread_id, metadata, values, messages, checkpoint))

    async def copy(self, thread_id: str) -> Thread:
        """A thread of its own with the same states."""
        return await self._send(threads.copy(thread_id))

    async def delete(self, thread_id: str) -> None:
        """Its runs stay."""
        await self._send(threads.delete(thread_id))


class Schedules:
    """Runs that start by the clock."""

    def __init__(self, send: Sender) -> None:
        self._send = send

    async def create(
        self,
        graph: str,
        input: Any,
        cron: str,
        *,
        timezone: str = "UTC",
        metadata: Mapping[str, Any] | None = None,
        enabled: bool = True,
    ) -> Schedule:
        """`cron` has five fields: minute, hour, day of month, month, day of week."""
        return await self._send(library.create_schedule(graph, input, cron, timezone, metadata, enabled))

    async def list(
        self, *, graph: str | None = None, limit: int = 100, offset: int = 0
    ) -> Sequence[Schedule]:
        """Newest first."""
        return await self._send(library.schedules(graph, limit, offset))

    async def get(self, schedule_id: str) -> Schedule:
        return await self._send(library.get_schedule(schedule_id))

    async def patch(self, schedule_id: str, **changes: Any) -> Schedule:
        """Changes of `enabled`, `cron`, `timezone` and `input`; what is left out stays."""
        return await self._send(library.patch_schedule(schedule_id, changes))

    async def delete(self, schedule_id: str) -> None:
        """Runs that it started stay."""
        await self._send(library.delete_schedule(schedule_id))


class Items:
    """The store: values under a namespace and a key, for every thread to use."""

    def __init__(self, send: Sender) -> None:
        self._send = send

    async def put(self, namespace: Sequence[str], key: str, value: Mapping[str, Any]) -> None:
        """Puts the value there, in place of one that was there before."""
        await self._send(library.put_item(namespace, key, value))

    async def get(self, namespace: Sequence[str], key: str) -> Item:
        """Raises NotFound."""
        return await self._send(library.get_item(namespace, key))

    async def delete(self, namespace: Sequence[str], key: str) -> None:
        """Raises NotFound."""
        await self._send(library.delete_item(namespace, key))

    async def search(
        self,
        prefix: Sequence[str] = (),
        *,
        filter: Mapping[str, Any] | None = None,
        limit: int = 10,
        offset: int = 0,
    ) -> Sequence[Item]:
        """Items below the prefix whose values have exactly these entries, latest change first."""
        return await self._send(library.search_items(prefix, filter, limit, offset))

    async def namespaces(
        self,
        prefix: Sequence[str] = (),
        *,
        suffix: Sequence[str] = (),
        max_depth: int | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> Sequence[tuple[str, ...]]:
        return await self._send(library.namespaces(prefix, suffix, max_depth, limit, offset))


class Models:
    """Models as operators see them. Changes are answered at once, and hold once what they need runs: `wait`."""

    def __init__(self, send: Sender) -> None:
        self._send = send

    async def list(self) -> Sequence[Model]:
        return await self._send(model_versions.models())

    async def get(self, name: str) -> Model:
        """Raises NotFound (`model_not_found`)."""
        return await self._send(model_versions.get(name))

    async def add(
        self, name: str, settings: Mapping[str, Any], *, note: str = "", idempotency_key: str | None = None
    ) -> ModelVersion:
        """A new model, which answers as soon as it runs, or the next version of one, which waits to be promoted.

        Args:
            settings: as under `models.NAME` in `manta.yaml`.
        """
        key = idempotency_key or str(uuid.uuid4())
        return await self._send(model_versions.add(name, settings, note, key))

    async def promote(
        self, name: str, version: int | None = None, *, keep_s: float | None = None
    ) -> ModelRoute:
        """One version, or the newest, gets all calls. `keep_s`: how long others stay up for a rollback."""
        return await self._send(model_versions.promote(name, version, keep_s))

    async def split(
        self, name: str, weights: Mapping[int, int], *, sticky: str = "run", keep_s: float | None = None
    ) -> ModelRoute:
        """Share calls out between versions. `sticky`: `run`, `user` or `none` meets the same version again."""
        return await self._send(model_versions.split(name, weights, sticky, keep_s))

    async def rollback(self, name: str) -> ModelRoute:
        """Back to the shares of the route before."""
        return await self._send(model_versions.rollback(name))

    async def scale(self, name: str, version: int | None = None, **replicas: Any) -> ModelVersion:
        """Changes fields of `replicas`: `min`, `max` and so on."""
        return await self._send(model_versions.scale(name, version, replicas))

    async def remove(self, name: str, version: int | None = None) -> None:
        """A model, or a version of it that has no traffic."""
        await self._send(model_versions.remove(name, version))

    async def comparison(self, name: str, revision: int | None = None) -> Comparison:
        """How the versions of a split do; of the newest one if no revision is named."""
        return await self._send(model_versions.comparison(name, revision))

    async def replicas(self, name: str) -> Sequence[dict[str, Any]]:
        """What each replica holds and does."""
        return await self._send(model_versions.replicas(name))

    async def wait(self, name: str, revision: int, *, timeout: float = 3600) -> ModelRoute:
        """The route once it serves.

        Raises:
            Conflict: code `route_failed`, it never will. PlatformError: code `wait_timeout`.
        """
        deadline = time.monotonic() + timeout
        while True:
            route = model_versions.settled(await self.get(name), revision)
            if route is not None:
                return route
            if time.monotonic() >= deadline:
                raise model_versions.late(name, revision, timeout)
            await asyncio.sleep(model_versions.LOOK_S)
