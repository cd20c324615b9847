"""An agent runtime in this process: what `manta replay`, examples and unit tests run on."""

from collections.abc import Mapping

from agents.host import AgentHost
from agents.places import HeldPlace, Places
from manta.errors import NotFound
from manta.messages import Task, TaskResult


class LocalRuntime:
    """Runs each task on the host of its agent, on the caller's event loop."""

    def __init__(self, hosts: Mapping[str, AgentHost]) -> None:
        self._hosts = dict(hosts)
        self._places: dict[str, Places] = {}

    def try_place(self, agent: str) -> HeldPlace | None:
        return self._places_of(agent).try_take()

    async def place(self, agent: str, priority: int = 0) -> HeldPlace:
        return await self._places_of(agent).take(priority)

    async def perform(self, task: Task) -> TaskResult:
        return await self._host(task.agent).perform(task)

    def _places_of(self, agent: str) -> Places:
        if agent not in self._places:
            self._places[agent] = Places(self._host(agent).concurrency)
        return self._places[agent]

    def _host(self, agent: str) -> AgentHost:
        host = self._hosts.get(agent)
        if host is None:
            raise NotFound(f"there is no agent {agent!r}", fix="add it under agents in manta.yaml")
        return host
