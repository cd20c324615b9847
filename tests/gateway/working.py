"""A platform in one process that has the gateway's own graphs, and a worker to run their steps: a real agent's host
whose record is the platform's own coordinator."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from agents.base import AgentSetup
from agents.context import LocalArtifacts
from agents.host import AgentHost, HostParts
from agents.worker import BACKGROUND, WORKER, Worker
from coordinator.service import CoordinatorService
from manta.clock import ManualClock, SystemClock
from manta.graph import Graph, Names
from manta.messages import CallIntent, CallOutcome, RecordedCall, Task
from manta.protocols import ChatModel
from serve_app.gateway.hidden_graphs import with_hidden
from tests.coordinator.functions import Agents, FunctionRuntime
from tests.gateway import platform
from tests.gateway.keys_support import Guarded
from tests.gateway.platform import Local, LocalModels


class _ServiceLog:
    def __init__(self, service: CoordinatorService) -> None:
        self._service = service

    async def begin(self, intent: CallIntent) -> RecordedCall | None:
        return await self._service.begin_call(intent)

    async def finish(self, outcome: CallOutcome) -> None:
        await self._service.finish_call(outcome)


@asynccontextmanager
async def working(folder: Path, models: Mapping[str, ChatModel], **options: Any) -> AsyncIterator[Local]:
    """On the journal that an earlier one left in the folder, if there is one."""
    hosted: asyncio.Future[AgentHost] = asyncio.get_running_loop().create_future()

    async def worker(task: Task) -> Any:
        return await (await asyncio.shield(hosted)).perform(task)

    def runtime(agents: Agents) -> FunctionRuntime:
        return FunctionRuntime({**agents, WORKER: worker, BACKGROUND: worker})

    def names(agents: frozenset[str], tools: frozenset[str]) -> Names:
        return Names(agents | {BACKGROUND}, tools)

    def service(url: str, runtime: Any, graphs: Mapping[str, Graph], *rest: Any, **more: Any) -> Any:
        made = CoordinatorService(url, runtime, with_hidden(graphs), *rest, **more)
        parts = HostParts(
            LocalModels(models),  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            LocalArtifacts(folder / "artifacts"),
            lambda task: _ServiceLog(made),
        )
        hosted.set_result(AgentHost(Worker(AgentSetup(BACKGROUND)), parts, concurrency=16))
        return made

    journal = folder / "journal.db"
    kept = journal.read_bytes() if journal.exists() else await platform._new_journal()

    async def there() -> bytes:
        return kept

    changes = {
        "FunctionRuntime": runtime,
        "CoordinatorService": service,
        "_new_journal": there,
        "Names": names,
    }
    with patch.multiple(platform, **changes):
        local, stop = await platform.start(folder, models, **options)
    try:
        yield local
    finally:
        await stop()


@asynccontextmanager
async def guarded_work(folder: Path, models: Mapping[str, ChatModel]) -> AsyncIterator[Guarded]:
    """One that asks for keys."""
    clock = ManualClock(SystemClock().now())
    async with working(folder, models, clock=clock, keys_always=True) as local:
        yield Guarded(local, clock)
