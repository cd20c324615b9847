"""Hosts one agent and works on several tasks of it at once. Ray-free: the actor is a thin shell around it."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agents.context import TaskContext
from agents.recording import RetryPolicy
from manta.clock import Clock, SystemClock
from manta.errors import MantaError, RunCancelled, StepError
from manta.faults import reach
from manta.ids import RunId, StepKey
from manta.messages import Task, TaskResult
from manta.protocols import Agent, Artifacts, CallLog, ChatModel, Documents
from manta.telemetry import get_logger, log_scope

logger = get_logger("agents")


class Models(Protocol):
    def get(self, name: str) -> ChatModel:
        """The model of that name; empty is the default. Raises NotFound."""
        ...


@dataclass(frozen=True, slots=True)
class HostParts:
    """What an agent needs from the rest of the platform."""

    models: Models
    documents: Documents
    artifacts: Artifacts
    call_log: CallLog
    send_token: Callable[[Task, str], None]


class AgentHost:
    """`perform` never raises for what goes wrong inside a task: the error is in the result."""

    def __init__(
        self,
        agent: Agent,
        parts: HostParts,
        *,
        model: str = "",
        concurrency: int = 4,
        retry: RetryPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._agent = agent
        self._parts = parts
        self._model = model
        self._retry = retry
        self._clock = clock or SystemClock()
        self._slots = asyncio.Semaphore(concurrency)
        self._tasks: dict[tuple[RunId, StepKey], asyncio.Task[TaskResult]] = {}

    async def perform(self, task: Task) -> TaskResult:
        """Run the task; an older attempt at the same step that still works here is stopped first."""
        key = (task.scope.run, task.scope.step)
        await self.cancel(*key)
        work = asyncio.create_task(self._perform(task), name=f"{task.scope.run}/{task.scope.step}")
        self._tasks[key] = work
        try:
            return await work
        except asyncio.CancelledError:
            if not work.cancelled():
                # The caller was cancelled, not the work: stop the work too.
                work.cancel()
                await asyncio.wait({work})
                raise
            return TaskResult(error=RunCancelled(f"step {task.scope.step} was cancelled").to_json())
        finally:
            if self._tasks.get(key) is work:
                del self._tasks[key]

    async def cancel(self, run: RunId, step: StepKey) -> None:
        """Stop the work on a step and wait until it has stopped."""
        work = self._tasks.get((run, step))
        if work is not None:
            work.cancel()
            await asyncio.wait({work})

    @property
    def busy(self) -> int:
        return len(self._tasks)

    async def _perform(self, task: Task) -> TaskResult:
        async with self._slots:
            log_scope.set(
                {"run": task.scope.run, "step": task.scope.step, "trace": task.scope.trace_parent or ""}
            )
            reach("agent.task_received")
            workdir = Path(tempfile.mkdtemp(prefix="manta-task-"))
            try:
                result = await self._run(task, workdir)
            finally:
                await asyncio.to_thread(shutil.rmtree, workdir, ignore_errors=True)
            reach("agent.task_done")
            return result

    async def _run(self, task: Task, workdir: Path) -> TaskResult:
        context = TaskContext(
            task=task,
            model=self._parts.models.get(task.model or self._model),
            documents=self._parts.documents,
            artifacts=self._parts.artifacts,
            call_log=self._parts.call_log,
            workdir=workdir,
            token_sink=lambda text: self._parts.send_token(task, text),
            clock=self._clock,
            retry=self._retry,
        )
        try:
            output = await self._agent.run(context)
            return TaskResult(output=output, usage=context.usage)
        except MantaError as error:
            return TaskResult(error=error.to_json(), usage=context.usage)
        except Exception as error:
            logger.exception("agent %s failed by a defect", task.agent)
            cause = f"agent {task.agent} failed: {type(error).__name__}: {error}"
            return TaskResult(error=StepError(cause, fix="see `manta logs`").to_json(), usage=context.usage)
