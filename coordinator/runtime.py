"""An agent runtime in this process: what `manta replay`, examples and unit tests run on."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from agents.host import AgentHost
from manta.errors import NotFound
from manta.messages import Task, TaskResult


class LocalRuntime:
    """Runs each task on the host of its agent, on the caller's event loop."""

    def __init__(self, hosts: Mapping[str, AgentHost]) -> None:
        self._hosts = dict(hosts)

    @asynccontextmanager
    async def slot(self, agent: str) -> AsyncIterator[None]:
        """The host itself bounds what it works on."""
        yield

    async def perform(self, task: Task) -> TaskResult:
        host = self._hosts.get(task.agent)
        if host is None:
            raise NotFound(f"there is no agent {task.agent!r}", fix="add it under agents in manta.yaml")
        return await host.perform(task)
