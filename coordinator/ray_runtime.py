"""Pools of agent actors: detached and named, so that a coordinator that restarts finds them again."""

import asyncio
import uuid
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

import ray
import ray.exceptions

from agents.actor import AgentActor
from agents.bursts import pack, unpack
from agents.hosting import Hosting
from agents.places import HeldPlace, Places
from agents.workload import Results, TaskId
from coordinator.dispatch import Member
from coordinator.retry import AGENT_LOST
from manta.clock import SystemClock
from manta.config import AgentSettings
from manta.errors import NotFound, Unavailable
from manta.ids import RunId, StepKey
from manta.messages import Task, TaskResult
from manta.patience import while_unavailable
from tools.ray_calls import NAMESPACE, own_error

CALLS_AT_ONCE = 128
"""Of one actor: a call that waits for each coordinator, and short ones."""

T = TypeVar("T")


def member_names(agents: Mapping[str, AgentSettings]) -> list[str]:
    """The actor names of all pools."""
    return [_actor_name(f"{name}-{index}") for name, pool in agents.items() for index in range(pool.size)]


def _actor_name(member: str) -> str:
    return f"manta-agent-{member}"


class _Pool:
    """The members of one agent's pool, and as many places as their actors work on at once.

    So a cancel never queues behind tasks at an actor.
    """

    def __init__(self, name: str, hosting: Hosting, client: str) -> None:
        settings = hosting.agents[name]
        self.places = Places(settings.size * settings.concurrency)
        self.members = [
            Member(_RayLink(f"{name}-{index}", name, hosting, client)) for index in range(settings.size)
        ]

    def least_busy(self) -> Member:
        return min(self.members, key=lambda member: (member.lost, member.busy))


class RayRuntime:
    """Hands each task to the least busy actor of its agent's pool. Picklable: actors are made on first use."""

    def __init__(self, hosting: Hosting) -> None:
        self._hosting = hosting
        self._pools: dict[str, _Pool] = {}
        self._client = ""

    def __reduce__(self) -> tuple[Any, ...]:
        # Each process is a client of its own to the actors.
        return RayRuntime, (self._hosting,)

    def try_place(self, agent: str) -> HeldPlace | None:
        return self._pool(agent).places.try_take()

    async def place(self, agent: str, priority: int = 0) -> HeldPlace:
        return await self._pool(agent).places.take(priority)

    async def perform(self, task: Task) -> TaskResult:
        return await self._pool(task.agent).least_busy().perform(task)

    async def prewarm(self) -> None:
        """Start the pools that are meant to be there from the start."""
        pools = [self._pool(name) for name, settings in self._hosting.agents.items() if settings.prewarm]
        await asyncio.gather(*(member.open() for pool in pools for member in pool.members))

    def _pool(self, agent: str) -> _Pool:
        pool = self._pools.get(agent)
        if pool is not None:
            return pool
        if agent not in self._hosting.agents:
            raise NotFound(f"there is no agent {agent!r}", fix="add it under agents in manta.yaml")
        self._client = self._client or uuid.uuid4().hex
        self._pools[agent] = _Pool(agent, self._hosting, self._client)
        return self._pools[agent]


class _RayLink:
    """A `Link` to a named actor, which is made where it does not exist."""

    def __init__(self, member: str, agent: str, hosting: Hosting, client: str) -> None:
        self._member = member
        self._agent = agent
        self._hosting = hosting
        self._client = client
        self._handle: Any = None

    async def open(self) -> None:
        """Ray restarts a dead actor within seconds; this waits for it."""

        async def answers() -> None:
            # Naming an actor is a blocking call to Ray's control service.
            self._handle = await asyncio.to_thread(self._create)
            await self._answer(self._handle.ping.remote())

        await while_unavailable(answers, SystemClock())

    async def take(self, tasks: Sequence[Task]) -> None:
        await self._answer(self._handle.take.remote(self._client, pack(tasks)))

    async def collect(self, fetched: Sequence[TaskId], tasks: Sequence[Task]) -> Results:
        brought = self._handle.collect.remote(self._client, pack(fetched), pack(tasks))
        return unpack(await self._answer(brought))

    def cancel(self, run: RunId, step: StepKey) -> None:
        self._handle.cancel.remote(run, step)

    async def _answer(self, reference: Awaitable[T]) -> T:
        try:
            return await reference
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # The actor's end also shows as a cancelled call.
            raise self._died(error) from None
        except ray.exceptions.RayError as error:
            # If it is not the method's own, the actor died, or the answer was lost with the node it lay on.
            raise own_error(error) or self._died(error) from None

    def _died(self, error: BaseException) -> Unavailable:
        cause = " ".join(str(error).split())[:200]
        return Unavailable(f"the actor {self._member} died: {cause}", fix="it is replaced", code=AGENT_LOST)

    def _create(self) -> Any:
        settings = self._hosting.agents[self._agent]
        actor_class: Any = ray.remote(AgentActor)
        return actor_class.options(
            name=_actor_name(self._member),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=CALLS_AT_ONCE,
            num_cpus=settings.num_cpus,
            num_gpus=settings.num_gpus,
            resources=settings.resources or None,
        ).remote(self._agent, self._hosting)
