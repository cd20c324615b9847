"""The Ray actor that hosts an agent: one class for all of them, configured by name and settings."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from agents.bursts import pack, unpack
from agents.host import AgentHost
from agents.hosting import Hosting
from agents.recording import CallDone
from agents.workload import Workload
from manta.errors import CoordinatorUnavailable
from manta.events import Event
from manta.ids import RunId, StepKey
from manta.messages import CallIntent, CallOutcome, RecordedCall, Task, TaskResult, to_json
from manta.protocols import CallLog
from manta.telemetry import configure_logging, get_logger
from tools.ray_calls import NamedActor

COORDINATOR = "manta-coordinator"
TOKEN_INTERVAL_S = 0.05

logger = get_logger("agents")


def coordinator_link(name: str = COORDINATOR) -> NamedActor:
    return NamedActor(name, error=CoordinatorUnavailable)


class RemoteCallLog:
    """A coordinator's journal of calls, reached from an agent's process."""

    def __init__(self, coordinator: NamedActor) -> None:
        self._coordinator = coordinator

    async def begin(self, intent: CallIntent) -> RecordedCall | None:
        recorded: RecordedCall | None = await self._coordinator.call("begin_call", intent)
        return recorded

    async def finish(self, outcome: CallOutcome) -> None:
        await self._coordinator.call("finish_call", outcome)


class Coordinators:
    """The coordinators that have sent tasks here, by name."""

    def __init__(self) -> None:
        self._links: dict[str, NamedActor] = {}
        self._logs: dict[str, RemoteCallLog] = {}

    def link(self, task: Task) -> NamedActor:
        """The one that sent the task and keeps its record."""
        name = task.coordinator or COORDINATOR
        if name not in self._links:
            self._links[name] = coordinator_link(name)
        return self._links[name]

    def call_log(self, task: Task) -> CallLog:
        name = task.coordinator or COORDINATOR
        if name not in self._logs:
            self._logs[name] = RemoteCallLog(self.link(task))
        return self._logs[name]


_TokenKey: TypeAlias = tuple[RunId, StepKey]


@dataclass(slots=True)
class _Pending:
    """What one coordinator has not been told yet."""

    link: NamedActor
    tokens: dict[_TokenKey, str] = field(default_factory=dict)
    calls: list[Event] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None

    def take(self, now: float) -> list[Event]:
        tokens = [
            Event(run, 0, "token", now, step, {"text": text}) for (run, step), text in self.tokens.items()
        ]
        events = [*tokens, *self.calls]
        self.tokens.clear()
        self.calls.clear()
        return events


class Relay:
    """Tells the coordinators what watchers want to see: the first token at once, then what gathers in 50 ms."""

    def __init__(self, coordinators: Coordinators, clock: Callable[[], float]) -> None:
        self._coordinators = coordinators
        self._now = clock
        self._pending: dict[str, _Pending] = {}

    def token(self, task: Task, text: str) -> None:
        pending = self._of(task)
        key = (task.scope.run, task.scope.step)
        pending.tokens[key] = pending.tokens.get(key, "") + text
        self._soon(pending)

    def call_done(self, task: Task, done: CallDone) -> None:
        facts = {
            "kind": done.kind,
            "name": done.name,
            "usage": to_json(done.usage),
            "replayed": done.replayed,
        }
        pending = self._of(task)
        pending.calls.append(Event(task.scope.run, 0, "call_done", self._now(), task.scope.step, facts))
        self._soon(pending)

    async def flush(self, task: Task) -> None:
        pending = self._pending.get(task.coordinator)
        if pending is None or not (pending.tokens or pending.calls):
            return
        try:
            await pending.link.call("pass_on", pending.take(self._now()))
        except CoordinatorUnavailable as error:
            # These events were never promised to anyone; the task's result has a way of its own.
            logger.warning("watchers miss the last words of a step: %s", error)

    def _of(self, task: Task) -> _Pending:
        pending = self._pending.get(task.coordinator)
        if pending is None:
            pending = self._pending[task.coordinator] = _Pending(self._coordinators.link(task))
        return pending

    def _soon(self, pending: _Pending) -> None:
        if pending.timer is None:
            pending.link.tell("pass_on", pending.take(self._now()))
            loop = asyncio.get_running_loop()
            pending.timer = loop.call_later(TOKEN_INTERVAL_S, self._tick, pending)

    def _tick(self, pending: _Pending) -> None:
        pending.timer = None
        if pending.tokens or pending.calls:
            self._soon(pending)


class AgentActor:
    """Its constructor only stores: an agent that cannot be built fails its tasks, not its process."""

    def __init__(self, name: str, hosting: Hosting) -> None:
        configure_logging(hosting.log_level)
        self._name = name
        self._hosting = hosting
        self._host: AgentHost | None = None
        self._workload = Workload(self._perform)

    async def take(self, client: str, tasks: bytes) -> None:
        """See `Workload.take`; the tasks are packed."""
        self._workload.take(client, unpack(tasks))

    async def collect(self, client: str, fetched: bytes, tasks: bytes) -> bytes:
        """See `Workload.collect`; all are packed."""
        results = await self._workload.collect(client, unpack(fetched), unpack(tasks))
        return pack(results)

    async def cancel(self, run: RunId, step: StepKey) -> None:
        """See `Workload.cancel`."""
        await self._workload.cancel(run, step)

    async def ping(self) -> dict[str, Any]:
        return {"agent": self._name, "busy": self._workload.busy}

    async def _perform(self, task: Task) -> TaskResult:
        if self._host is None:
            self._host = self._hosting.host(self._name)
        return await self._host.perform(task)
