"""The Ray actor that hosts an agent: one class for all of them, configured by name and settings."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agents.catalog import load_agent
from agents.host import AgentHost, HostParts
from agents.recording import CallDone, RetryPolicy
from agents.worker import WORKER
from manta.config import AgentSettings, SandboxSettings, SearchSettings
from manta.errors import CoordinatorUnavailable
from manta.events import Event
from manta.ids import RunId, StepKey
from manta.messages import CallIntent, CallOutcome, RecordedCall, Task, TaskResult, to_json
from manta.protocols import Agent
from manta.telemetry import configure_logging
from tools.ray_calls import NamedActor

COORDINATOR = "manta-coordinator"
TOKEN_INTERVAL_S = 0.05


class RemoteCallLog:
    """The coordinator's journal of calls, reached from an agent's process."""

    def __init__(self, coordinator: NamedActor) -> None:
        self._coordinator = coordinator

    async def begin(self, intent: CallIntent) -> RecordedCall | None:
        recorded: RecordedCall | None = await self._coordinator.call("begin_call", intent)
        return recorded

    async def finish(self, outcome: CallOutcome) -> None:
        await self._coordinator.call("finish_call", outcome)


class Relay:
    """Tells the coordinator what watchers want to see: the first token at once, then what gathers every 50 ms."""

    def __init__(self, coordinator: NamedActor, clock: Callable[[], float]) -> None:
        self._coordinator = coordinator
        self._now = clock
        self._tokens: dict[tuple[RunId, StepKey], str] = {}
        self._calls: list[Event] = []
        self._timer: asyncio.TimerHandle | None = None

    def token(self, task: Task, text: str) -> None:
        key = (task.scope.run, task.scope.step)
        self._tokens[key] = self._tokens.get(key, "") + text
        self._soon()

    def call_done(self, task: Task, done: CallDone) -> None:
        facts = {
            "kind": done.kind,
            "name": done.name,
            "usage": to_json(done.usage),
            "replayed": done.replayed,
        }
        self._calls.append(Event(task.scope.run, 0, "call_done", self._now(), task.scope.step, facts))
        self._soon()

    async def flush(self) -> None:
        events = self._take()
        if events:
            await self._coordinator.call("pass_on", events)

    def _soon(self) -> None:
        if self._timer is None:
            self._coordinator.tell("pass_on", self._take())
            self._timer = asyncio.get_running_loop().call_later(TOKEN_INTERVAL_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._tokens or self._calls:
            self._soon()

    def _take(self) -> list[Event]:
        tokens = [
            Event(run, 0, "token", self._now(), step, {"text": text})
            for (run, step), text in self._tokens.items()
        ]
        events = [*tokens, *self._calls]
        self._tokens.clear()
        self._calls.clear()
        return events


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


class AgentActor:
    """Its constructor only stores: an agent that cannot be built fails its tasks, not its process."""

    def __init__(self, name: str, hosting: Hosting) -> None:
        configure_logging(hosting.log_level)
        self._name = name
        self._hosting = hosting
        self._host: AgentHost | None = None

    async def perform(self, task: Task) -> TaskResult:
        if self._host is None:
            settings = self._hosting.agents[self._name]
            agent = self._hosting.load(self._name)
            self._host = AgentHost(
                agent,
                self._hosting.connect(),
                model=settings.model,
                concurrency=settings.concurrency,
                retry=RetryPolicy.from_options(settings.options),
            )
        return await self._host.perform(task)

    async def cancel(self, run: RunId, step: StepKey) -> None:
        if self._host is not None:
            await self._host.cancel(run, step)

    async def ping(self) -> dict[str, Any]:
        return {"agent": self._name, "busy": self._host.busy if self._host else 0}


def coordinator_link() -> NamedActor:
    return NamedActor(COORDINATOR, error=CoordinatorUnavailable)
