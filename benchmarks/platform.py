"""The real coordinator and the real agent actors, without HTTP and models: what the benchmarks measure."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import ray

from agents.actor import COORDINATOR
from benchmarks.local_ray import actor_processes
from coordinator.ray_runtime import member_names
from coordinator.submission import Submission
from manta.config import AgentSettings, Settings
from manta.graph import Graph, parse_graph
from manta.ids import DEFAULT_TENANT, RunId
from serve_app.app import start_coordinator
from serve_app.composition import Composition
from tools.ray_calls import NAMESPACE, NamedActor

AGENT = "noop"
SUBMITS_AT_ONCE = 64
POLL_S = 0.005
LONGEST_S = 600.0
PAGE = 500


Holds: TypeAlias = Callable[[Mapping[str, Any]], bool]
"""A question to a coordinator's health."""


def chain(steps: int) -> Graph:
    """Steps that each need the one before; the last output tells how many ran."""
    made = [
        {"id": f"s{i}", "agent": AGENT, "input": {"n": f"${{steps.s{i - 1}.n}}" if i else 0}}
        for i in range(steps)
    ]
    return parse_graph({"name": "chain", "steps": made})


def pool(home: Path, use: str, agents: int, places: int, **more: Any) -> Settings:
    """Settings with one pool whose `agents` actors work on `places` steps at once in all; `more` are sections."""
    settings = AgentSettings(use=use, size=agents, concurrency=-(-places // agents))
    return Settings.model_validate({"home": home, "agents": {AGENT: settings}, **more})


class Platform:
    """Coordinators by name, on the Ray this process has started, and what one asks of them."""

    def __init__(
        self, settings: Settings, graphs: Sequence[Graph], names: Sequence[str] = (COORDINATOR,)
    ) -> None:
        self._settings = settings
        self._names = tuple(names)
        composition = Composition(settings)
        by_name = {graph.name: graph for graph in graphs}
        for name in names:
            start_coordinator(composition, by_name, name)
        self._links = [NamedActor(name) for name in names]

    async def ready(self) -> None:
        for number in range(len(self._links)):
            await self._until(number, lambda health: bool(health["journal"]))

    async def call(self, method: str, *arguments: Any, coordinator: int = 0) -> Any:
        return await self._links[coordinator].call(method, *arguments)

    async def submit(
        self, graph: str, inputs: Sequence[Any], *, key: str, coordinator: int = 0
    ) -> list[RunId]:
        """Submit in bulk; each is repeated under its own idempotency key while the coordinator is away."""
        free = asyncio.Semaphore(SUBMITS_AT_ONCE)

        async def one(number: int, value: Any) -> RunId:
            asked = Submission(graph, value, DEFAULT_TENANT, idempotency_key=f"{key}-{number}")
            async with free:
                record = await self.call("submit", asked, coordinator=coordinator)
            return RunId(record.id)

        return list(await asyncio.gather(*(one(number, value) for number, value in enumerate(inputs))))

    async def until_idle(self, last: RunId | None = None) -> None:
        """Until nothing is queued or at work. `last`, a run near the end, is waited for by one call first."""
        if last is not None:
            await self.call("wait", DEFAULT_TENANT, last, LONGEST_S)
        await self.until(lambda health: not health["active"] and not health["queued"])

    async def until(self, holds: Holds, *, coordinator: int = 0, poll_s: float = POLL_S) -> Mapping[str, Any]:
        """The coordinator's health once it has its journal and `holds` is true of it."""
        return await self._until(coordinator, lambda health: health["journal"] and holds(health), poll_s)

    async def _until(self, coordinator: int, holds: Holds, poll_s: float = POLL_S) -> Mapping[str, Any]:
        deadline = time.monotonic() + LONGEST_S
        while time.monotonic() < deadline:
            health: Mapping[str, Any] = await self.call("health", coordinator=coordinator)
            if holds(health):
                return health
            await asyncio.sleep(poll_s)
        raise TimeoutError(f"{self._names[coordinator]} did not get there in {LONGEST_S:.0f} s: {health}")

    async def seconds(self, graph: str, runs: int, key: str) -> float:
        """From the first submit to the end of the last run."""
        began = time.perf_counter()
        ids = await self.submit(graph, [{}] * runs, key=key)
        await self.until_idle(ids[-1])
        return time.perf_counter() - began

    async def endings(self, coordinator: int = 0) -> dict[str, int]:
        """How many runs there are of each status."""
        found: Counter[str] = Counter()
        while True:
            filters = {"limit": PAGE, "offset": found.total()}
            page = await self.call("search", DEFAULT_TENANT, filters, coordinator=coordinator)
            found.update(record.status for record in page)
            if len(page) < PAGE:
                return dict(found)

    def process(self) -> psutil.Process:
        """The only coordinator's process, of the moment: another after a kill."""
        found = actor_processes("ray::CoordinatorActor")
        if len(found) != 1:
            raise RuntimeError(f"{len(found)} coordinator processes were found, not one")
        return found[0]

    def remove(self, coordinator: int = 0) -> None:
        """Kill a coordinator for good."""
        ray.kill(ray.get_actor(self._names[coordinator], namespace=NAMESPACE))

    def close(self) -> None:
        for name in (*self._names, *member_names(self._settings.agents)):
            with contextlib.suppress(ValueError):
                ray.kill(ray.get_actor(name, namespace=NAMESPACE))
