"""Hosts one agent and works on several tasks of it at once. Ray-free: the actor is a thin shell around it."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from agents.context import TaskContext
from agents.places import Places
from agents.recorded_model import RetryPolicy
from agents.recording import CallDone
from manta.clock import Clock, SystemClock
from manta.errors import MantaError, RunCancelled, StepError
from manta.faults import reach
from manta.ids import RunId, StepKey
from manta.messages import Task, TaskResult, to_json
from manta.protocols import Agent, Artifacts, CallLog, ChatModel, Documents
from manta.telemetry import get_logger, log_scope

logger = get_logger("agents")


class Models(Protocol):
    def resolve(self, name: str) -> str:
        """The name itself, or the default's when it is empty."""
        ...

    def get(self, name: str) -> ChatModel:
        """The model of that name; empty is the default. Raises NotFound."""
        ...


class Watchers(Protocol):
    """Those who watch a run: told of what is not journaled."""

    def token(self, task: Task, text: str) -> None: ...

    def call_done(self, task: Task, done: CallDone) -> None: ...

    async def flush(self, task: Task) -> None:
        """Returns once everything told so far of the task's run has been passed on."""
        ...


class Unwatched:
    """Nobody watches."""

    def token(self, task: Task, text: str) -> None:
        """Goes nowhere."""

    def call_done(self, task: Task, done: CallDone) -> None:
        """Goes nowhere."""

    async def flush(self, task: Task) -> None:
        """Nothing waits."""


@dataclass(frozen=True, slots=True)
class HostParts:
    """What an agent needs from the rest of the platform. `call_log`: who keeps the record of a task."""

    models: Models
    documents: Documents
    artifacts: Artifacts
    call_log: Callable[[Task], CallLog]
    watchers: Watchers = field(default_factory=Unwatched)


class _Scratch:
    """A folder for one task, made when the agent first asks for it: most never do."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def folder(self) -> Path:
        self._folder = self._folder or Path(tempfile.mkdtemp(prefix="manta-task-"))
        return self._folder

    async def remove(self) -> None:
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)


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
        self._places = Places(concurrency)
        self._tasks: dict[tuple[RunId, StepKey], asyncio.Task[TaskResult]] = {}
        self.concurrency = concurrency
        """Tasks it works on at once; further ones wait by their priority."""

    async def perform(self, task: Task) -> TaskResult:
        """Run the task; an older attempt at the same step that still works here is stopped first."""
        key = (task.scope.run, task.scope.step)
        await self.cancel(*key)
        work = asyncio.create_task(self._perform(task), name=f"{task.scope.run}/{task.scope.step}")
        self._tasks[key] = work
        try:
            return await work
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if own is not None and own.cancelling():
                # The caller was cancelled, and with it the work it waits for.
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

    async def _perform(self, task: Task) -> TaskResult:
        with await self._places.take(task.hints.priority):
            log_scope.set(
                {"run": task.scope.run, "step": task.scope.step, "trace": task.scope.trace_parent or ""}
            )
            reach("agent.task_received")
            scratch = _Scratch()
            try:
                result = await self._run(task, scratch)
            finally:
                await scratch.remove()
            reach("agent.task_done")
            return result

    async def _run(self, task: Task, scratch: _Scratch) -> TaskResult:
        try:
            context = self._context(task, scratch)
        except MantaError as error:
            return TaskResult(error=error.to_json())
        output, failed = None, None
        try:
            output = _plain(await self._agent.run(context))
        except MantaError as error:
            failed = error
        except Exception as error:
            logger.exception("agent %s failed by a defect", task.agent)
            cause = f"agent {task.agent} failed: {type(error).__name__}: {error}"
            failed = StepError(cause, fix="see `manta logs`")
        finally:
            # Before the step is done, so that nobody sees its end before its last words.
            await self._parts.watchers.flush(task)
        # A call that was refused ends the task, whatever the agent made of it.
        failed = context.verdict or failed
        return TaskResult(
            output if failed is None else None,
            failed.to_json() if failed is not None else None,
            context.usage,
            context.take_notes(),
            context.unknown_call,
        )

    def _context(self, task: Task, scratch: _Scratch) -> TaskContext:
        parts = self._parts
        task = replace(task, model=parts.models.resolve(task.model or self._model))
        return TaskContext(
            task=task,
            model=parts.models.get(task.model),
            documents=parts.documents,
            artifacts=parts.artifacts,
            call_log=parts.call_log(task),
            workdir=scratch.folder,
            token_sink=lambda text: parts.watchers.token(task, text),
            observe=lambda done: parts.watchers.call_done(task, done),
            clock=self._clock,
            retry=self._retry,
            find_model=parts.models.get,
        )


def _plain(output: Any) -> Any:
    """The output as plain JSON values; what is none would only fail later, in the journal."""
    value = to_json(output)
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        cause = f"the agent's output is not JSON: {error}"
        raise StepError(
            cause, fix="return dicts, lists, text and finite numbers", code="output_not_json"
        ) from None
    return value
