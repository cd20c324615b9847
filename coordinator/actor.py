"""The coordinator as a detached, named Ray actor. Its constructor cannot fail: a name would be lost for good."""

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import ray
import uvloop

from coordinator.forks import Fork
from coordinator.news import Watch
from coordinator.ray_runtime import RayRuntime
from coordinator.service import CoordinatorService, Describe
from coordinator.store.records import DecisionAction, RunRecord, StepCall, StepRecord
from coordinator.submission import Submission
from manta.clock import SystemClock
from manta.config import Settings
from manta.events import Event
from manta.graph import Graph, Names
from manta.ids import RunId, StepKey, Tenant
from manta.messages import Budget, CallIntent, CallOutcome, RecordedCall
from manta.telemetry import configure_logging

GROUPS = {"control": 64, "recording": 256, "watching": 4096}
"""Kept apart so that thousands of watchers delay neither a cancel nor a commit."""

T = TypeVar("T")


class CoordinatorActor:
    """Methods mirror `CoordinatorService`; each waits until the journal is open.

    Ray runs every concurrency group on an event loop of its own, so the service gets one loop for itself
    and every method goes there.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        runtime: RayRuntime,
        graphs: Mapping[str, Graph],
        names: Names,
        describe: Describe | None = None,
    ) -> None:
        configure_logging(settings.log_level)
        self._service = CoordinatorService(
            settings.journal_url,
            runtime,
            graphs,
            names,
            SystemClock(),
            name,
            limits=settings.limits,
            settings=settings.coordinator,
            webhooks=settings.webhooks,
            describe=describe,
        )
        self._runtime = runtime
        self._loop = uvloop.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="coordinator", daemon=True).start()
        # A coordinator that Ray restarted takes up its runs without being asked.
        self._loop.call_soon_threadsafe(self._service.ensure_started)

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(self._when_started(work), self._loop)
        )

    async def _when_started(self, work: Coroutine[Any, Any, T]) -> T:
        await self._service.started()
        return await work

    @ray.method(concurrency_group="control")
    async def health(self) -> dict[str, Any]:
        """Answers also while the journal cannot be opened, but not when the service's own loop hangs."""

        async def look() -> dict[str, Any]:
            return self._service.health()

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(look(), self._loop))

    @ray.method(concurrency_group="control")
    async def prewarm(self) -> None:
        await self._there(self._runtime.prewarm())

    @ray.method(concurrency_group="control")
    async def graphs(self) -> list[Graph]:
        return self._service.graphs()

    @ray.method(concurrency_group="control")
    async def submit(self, submission: Submission) -> RunRecord:
        return await self._there(self._service.submit(submission))

    @ray.method(concurrency_group="control")
    async def get(self, tenant: Tenant, run: RunId) -> tuple[RunRecord, list[StepRecord]]:
        return await self._there(self._service.get(tenant, run))

    @ray.method(concurrency_group="control")
    async def search(self, tenant: Tenant, filters: dict[str, Any]) -> list[RunRecord]:
        return await self._there(self._service.search(tenant, **filters))

    @ray.method(concurrency_group="control")
    async def cancel(self, tenant: Tenant, run: RunId) -> RunRecord:
        return await self._there(self._service.cancel(tenant, run))

    @ray.method(concurrency_group="control")
    async def delete(self, tenant: Tenant, run: RunId) -> None:
        await self._there(self._service.delete(tenant, run))

    @ray.method(concurrency_group="control")
    async def decide(
        self,
        tenant: Tenant,
        run: RunId,
        step: StepKey | None,
        action: DecisionAction,
        value: Any = None,
        comment: str = "",
        by: str = "",
        key: str | None = None,
    ) -> RunRecord:
        return await self._there(self._service.decide(tenant, run, step, action, value, comment, by, key))

    @ray.method(concurrency_group="control")
    async def fork(self, tenant: Tenant, run: RunId, asked: Fork) -> RunRecord:
        return await self._there(self._service.fork(tenant, run, asked))

    @ray.method(concurrency_group="control")
    async def resume(
        self, tenant: Tenant, run: RunId, budget: Budget | None, key: str | None = None
    ) -> RunRecord:
        return await self._there(self._service.resume(tenant, run, budget, key))

    @ray.method(concurrency_group="control")
    async def library(self, room: str, method: str, *arguments: Any) -> Any:
        return await self._there(self._service.library(room, method, *arguments))

    @ray.method(concurrency_group="control")
    async def calls(self, tenant: Tenant, run: RunId, whole: bool) -> list[StepCall]:
        return await self._there(self._service.calls(tenant, run, whole))

    @ray.method(concurrency_group="control")
    async def drain(self, grace_s: float = 30.0) -> None:
        await self._there(self._service.drain(grace_s))

    @ray.method(concurrency_group="watching")
    async def wait(self, tenant: Tenant, run: RunId, timeout_s: float) -> RunRecord:
        return await self._there(self._service.wait(tenant, run, timeout_s))

    @ray.method(concurrency_group="watching")
    async def watch(self, tenant: Tenant, run: RunId, after: int, cursor: int, timeout_s: float) -> Watch:
        return await self._there(self._service.watch(tenant, run, after, cursor, timeout_s))

    @ray.method(concurrency_group="recording")
    async def pass_on(self, events: Sequence[Event]) -> None:
        self._loop.call_soon_threadsafe(self._service.pass_on, events)

    @ray.method(concurrency_group="recording")
    async def begin_call(self, intent: CallIntent) -> RecordedCall | None:
        return await self._there(self._service.begin_call(intent))

    @ray.method(concurrency_group="recording")
    async def finish_call(self, outcome: CallOutcome) -> None:
        await self._there(self._service.finish_call(outcome))
