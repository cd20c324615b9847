"""An agent runtime of plain functions: what the coordinator's own tests run steps on."""

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from agents.places import HeldPlace, Places
from coordinator.service import CoordinatorService
from coordinator.submission import Submission
from manta.errors import MantaError
from manta.ids import DEFAULT_TENANT, RunId
from manta.messages import Task, TaskResult, Usage

Agents: TypeAlias = Mapping[str, Callable[[Task], Any]]
Start: TypeAlias = Callable[..., Any]
"""Makes a started service of a graph and its agents; see the fixture `start`."""


class FunctionRuntime:
    """`agents` maps a name to a function of the task; what it raises of ours is the step's error.

    A function may also return the `TaskResult` itself.
    """

    def __init__(self, agents: Agents, places: int = 1000) -> None:
        self._agents = agents
        self._places = Places(places)
        self.tasks: list[Task] = []
        self.stopped: list[str] = []

    def try_place(self, agent: str) -> HeldPlace | None:
        return self._places.try_take()

    async def place(self, agent: str, priority: int = 0) -> HeldPlace:
        return await self._places.take(priority)

    async def perform(self, task: Task) -> TaskResult:
        self.tasks.append(task)
        try:
            output = self._agents[task.agent](task)
            if inspect.isawaitable(output):
                output = await output
        except MantaError as error:
            return TaskResult(error=error.to_json())
        except asyncio.CancelledError:
            self.stopped.append(task.scope.step)
            raise
        if isinstance(output, TaskResult):
            return output
        return TaskResult(output=output, usage=Usage(1, 2, model_calls=1))

    def count(self, step: str) -> int:
        return sum(task.scope.step == step for task in self.tasks)


async def run(service: CoordinatorService, value: Any = None, **more: Any) -> Any:
    """Submit a run of graph `g` and wait until it rests."""
    submission = Submission("g", {} if value is None else value, DEFAULT_TENANT, **more)
    record = await service.submit(submission)
    return await service.wait(DEFAULT_TENANT, RunId(record.id), 30)
