"""An agent runtime of plain functions: what the coordinator's own tests run steps on."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from manta.errors import MantaError
from manta.messages import Task, TaskResult, Usage


class FunctionRuntime:
    """`agents` maps a name to a function of the task; what it raises of ours is the step's error."""

    def __init__(self, agents: Mapping[str, Callable[[Task], Any]]) -> None:
        self._agents = agents
        self.tasks: list[Task] = []
        self.stopped: list[str] = []

    @asynccontextmanager
    async def slot(self, agent: str) -> AsyncIterator[None]:
        yield

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
        return TaskResult(output=output, usage=Usage(1, 2, model_calls=1))

    def count(self, step: str) -> int:
        return sum(task.scope.step == step for task in self.tasks)
