"""What builds the host of an agent from the settings, wherever it is to run. Ray-free."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agents.catalog import load_agent
from agents.host import AgentHost, HostParts
from agents.recorded_model import RetryPolicy
from agents.worker import WORKER
from manta.config import AgentSettings, SandboxSettings, SearchSettings
from manta.protocols import Agent


@dataclass(frozen=True, slots=True)
class Hosting:
    """What every pool needs to build its agent and reach the platform. Picklable: agents are imported in the actor."""

    agents: Mapping[str, AgentSettings]
    tools: Mapping[str, str]
    search: SearchSettings
    sandbox: SandboxSettings
    connect: Callable[[], HostParts]
    log_level: str = "INFO"

    def load(self, name: str) -> Agent:
        """Raises InvalidConfig when the agent or a tool of it cannot be imported."""
        settings = self.agents[name]
        if name == WORKER:
            settings = settings.model_copy(update={"tools": tuple(self.tools)})
        return load_agent(name, settings, tools=self.tools, search=self.search, sandbox=self.sandbox)

    def host(self, name: str) -> AgentHost:
        """The agent of this name at work, connected. Raises InvalidConfig likewise."""
        settings = self.agents[name]
        agent = self.load(name)
        return AgentHost(
            agent,
            self.connect(),
            model=settings.model,
            concurrency=settings.concurrency,
            retry=RetryPolicy.from_options(settings.options),
        )
