"""Pools of agent actors: detached and named, so that a coordinator that restarts finds them again."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import ray
import ray.exceptions

from agents.actor import AgentActor, Hosting
from agents.worker import WORKER
from coordinator.retry import AGENT_LOST
from manta.clock import SystemClock
from manta.config import AgentSettings
from manta.errors import NotFound, Unavailable
from manta.messages import Task, TaskResult
from manta.patience import while_unavailable
from manta.telemetry import get_logger
from tools.ray_calls import NAMESPACE, unwrap

logger = get_logger("coordinator")


def member_names(agents: Mapping[str, AgentSettings]) -> list[str]:
    """The actor names of all pools."""
    return [_actor_name(f"{name}-{index}") for name, pool in agents.items() for index in range(pool.size)]


def _actor_name(member: str) -> str:
    return f"manta-agent-{member}"


class RayRuntime:
    """Hands each task to the least busy actor of its agent's pool. Picklable: actors are made on first use."""

    def __init__(self, hosting: Hosting) -> None:
        self._hosting = hosting
        self._agents = dict(hosting.agents)
        self._handles: dict[str, Any] = {}
        self._busy: Counter[str] = Counter()
        self._lost: set[str] = set()
        self._slots: dict[str, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def slot(self, agent: str) -> AsyncIterator[None]:
        """As many at once as the pool's actors work on; so a cancel never queues behind tasks at an actor."""
        settings = self._settings(agent)
        slots = self._slots.setdefault(agent, asyncio.Semaphore(settings.size * settings.concurrency))
        async with slots:
            yield

    def _settings(self, agent: str) -> AgentSettings:
        if agent not in self._agents:
            raise NotFound(f"there is no agent {agent!r}", fix="add it under agents in manta.yaml")
        return self._agents[agent]

    async def perform(self, task: Task) -> TaskResult:
        settings = self._settings(task.agent)
        member = self._least_busy(task.agent, settings.size)
        self._busy[member] += 1
        try:
            return await self._perform_on(member, settings, task)
        finally:
            self._busy[member] -= 1

    async def _perform_on(self, member: str, settings: AgentSettings, task: Task) -> TaskResult:
        handle = await self._actor(member, task.agent, settings)
        if member in self._lost:
            await self._until_back(member, handle)
        try:
            result: TaskResult = await handle.perform.remote(task)
            return result
        except asyncio.CancelledError:
            # Cancelling the wait does not reach the actor by itself.
            handle.cancel.remote(task.scope.run, task.scope.step)
            raise
        except ray.exceptions.RayTaskError as error:
            raise unwrap(error) from None
        except ray.exceptions.RayError as error:
            # The actor died, or the result was lost with the node it lay on.
            self._handles.pop(member, None)
            self._lost.add(member)
            cause = " ".join(str(error).split())[:200]
            raise Unavailable(
                f"the actor {member} died: {cause}", fix="it is replaced", code=AGENT_LOST
            ) from None

    async def _until_back(self, member: str, handle: Any) -> None:
        """Ray restarts a dead actor within seconds; a task sent before that would only cost an attempt."""

        async def ping() -> None:
            try:
                await handle.ping.remote()
            except ray.exceptions.RayActorError as error:
                raise Unavailable(f"the actor {member} is not back: {error}", code=AGENT_LOST) from None

        await while_unavailable(ping, SystemClock())
        self._lost.discard(member)

    async def prewarm(self) -> None:
        """Start every pool but the worker's, which most graphs never use."""
        pools = [(name, settings) for name, settings in self._agents.items() if name != WORKER]
        members = [
            self._actor(f"{name}-{index}", name, settings)
            for name, settings in pools
            for index in range(settings.size)
        ]
        handles = await asyncio.gather(*members)
        await asyncio.gather(*(handle.ping.remote() for handle in handles))

    def _least_busy(self, agent: str, size: int) -> str:
        members = (f"{agent}-{index}" for index in range(size))
        return min(members, key=lambda member: (member in self._lost, self._busy[member]))

    async def _actor(self, member: str, agent: str, settings: AgentSettings) -> Any:
        if member not in self._handles:
            # Naming an actor is a blocking call to Ray's control service.
            self._handles[member] = await asyncio.to_thread(self._create, member, agent, settings)
        return self._handles[member]

    def _create(self, member: str, agent: str, settings: AgentSettings) -> Any:
        actor_class: Any = ray.remote(AgentActor)
        return actor_class.options(
            name=_actor_name(member),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=settings.concurrency + 64,
            num_cpus=settings.num_cpus,
            num_gpus=settings.num_gpus,
            resources=settings.resources or None,
        ).remote(agent, self._hosting)
