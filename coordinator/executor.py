"""Drives one run to its end: asks the scheduler, dispatches tasks, journals what came of them."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import manta
from agents.worker import WORKER
from coordinator import scheduler
from coordinator.retry import AGENT_LOST, Tries, delay_s, may_retry
from coordinator.scheduler import Execution, Finished, Start
from coordinator.store.journal import Journal
from coordinator.store.records import (
    Change,
    EventDraft,
    RunChange,
    RunRecord,
    RunStatus,
    StepChange,
    StepRecord,
)
from coordinator.watch import Watchers
from manta.clock import Clock
from manta.errors import MantaError, NotFound, RunCancelled, StepError, StepTimeout
from manta.faults import reach
from manta.graph import Graph, Step, parse_graph
from manta.ids import RunId, StepId, StepKey
from manta.messages import CallHints, CallScope, Task, TaskResult, Usage, to_json
from manta.protocols import AgentRuntime
from manta.telemetry import get_logger

LEASE_MARGIN_S = 5.0

logger = get_logger("coordinator")


@dataclass(slots=True)
class _Ended:
    """What a dispatched step execution came to, after its retries."""

    start: Start
    result: TaskResult
    attempt: int
    began: float


@dataclass(slots=True)
class RunExecutor:
    """One claimed run. `execute` returns when the run has reached a terminal state in the journal."""

    record: RunRecord
    journal: Journal
    runtime: AgentRuntime
    watchers: Watchers
    clock: Clock
    jitter: random.Random = field(default_factory=random.Random)
    _executions: dict[StepKey, Execution] = field(default_factory=dict)
    _running: dict[asyncio.Task[_Ended], Start] = field(default_factory=dict)
    _cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    _spent: Usage = field(default_factory=Usage)
    _steps_left: dict[str, int] = field(default_factory=dict)

    def cancel(self) -> None:
        """End the run as interrupted; the flag is already in the journal."""
        self._cancelled.set()

    async def fail(self, error: MantaError) -> None:
        """End the run with an error that is not a step's."""
        await self._finish(Finished(error=error.to_json()))

    async def execute(self) -> None:
        graph = parse_graph(self.record.graph, f"run {self.record.id}")
        steps = await self.journal.steps(self.record.id)
        self._executions = {step.key: _as_execution(step) for step in steps}
        self._spent = sum((step.usage for step in steps if step.state == "done"), Usage())
        self._steps_left = scheduler.steps_left(graph)
        await self._announce(graph)
        if self.record.cancel_requested:
            self._cancelled.set()
        try:
            await self._drive(graph)
        finally:
            await self._stop_running()

    async def _drive(self, graph: Graph) -> None:
        await self._restart(graph)
        while True:
            if self._cancelled.is_set():
                return await self._finish_cancelled()
            if self._deadline_passed():
                return await self._finish(Finished(error=_deadline_error()), status="timeout")
            decision = scheduler.decide(graph, self.record.input, self._executions)
            if decision.finished is not None:
                return await self._finish(decision.finished)
            if decision.skips:
                await self._skip(decision.skips)
                continue
            for start in decision.starts:
                self._launch(start, 1)
            await self._wait()

    async def _announce(self, graph: Graph) -> None:
        if await self.journal.events(self.record.id, limit=1):
            await self._commit([EventDraft("run_resumed", data={"epoch": self.record.epoch})])
            return
        facts = {"graph": graph.name, "version": graph.version, "steps": [step.id for step in graph.steps]}
        facts["manta"] = manta.__version__
        await self._commit([EventDraft("run_started", data=facts)])

    async def _restart(self, graph: Graph) -> None:
        """Steps that were running when the last coordinator died run again; their recorded calls are replayed."""
        for record in await self.journal.steps(self.record.id):
            if record.state == "started":
                start = Start(record.key, graph.step(record.step), record.index, record.input)
                self._launch(start, record.attempt + 1)

    def _launch(self, start: Start, attempt: int) -> None:
        self._note(start, "started", attempt)
        job = self._perform(start, attempt)
        self._running[asyncio.create_task(job, name=f"{self.record.id}/{start.key}")] = start

    def _started(self, start: Start, attempt: int) -> list[Change]:
        agent = start.step.agent or WORKER
        return [
            StepChange(
                start.key,
                StepId(start.step.id),
                start.index,
                "started",
                attempt,
                agent=agent,
                input=start.input,
            ),
            EventDraft("step_started", start.key, {"attempt": attempt, "agent": agent}),
        ]

    async def _perform(self, start: Start, attempt: int) -> _Ended:
        """One step execution with its retries; returns its last result."""
        tries = Tries()
        while True:
            try:
                result, began = await self._in_slot(start, attempt)
            except NotFound as error:
                return _Ended(start, TaskResult(error=error.to_json()), attempt, self.clock.monotonic())
            if result.error is None:
                return _Ended(start, result, attempt, began)
            tries.note(result.error)
            if not may_retry(result.error, tries, start.step.retry):
                return _Ended(start, result, attempt, began)
            pause = delay_s(result.error, tries, start.step.retry, self.jitter)
            facts = {"attempt": attempt, "error": result.error, "delay_s": round(pause, 3)}
            await self._commit([EventDraft("step_retried", start.key, facts)])
            await self.clock.sleep(pause)
            attempt += 1

    async def _in_slot(self, start: Start, attempt: int) -> tuple[TaskResult, float]:
        """Start the attempt once the agent's pool has room, and run it; the time begins then."""
        async with self.runtime.slot(start.step.agent or WORKER):
            self._note(start, "started", attempt)
            await self._commit(self._started(start, attempt))
            reach("coordinator.step_started")
            began = self.clock.monotonic()
            return await self._attempt(start, attempt), began

    async def _attempt(self, start: Start, attempt: int) -> TaskResult:
        task = await self._task(start, attempt)
        work = asyncio.ensure_future(self.runtime.perform(task))
        alarm = asyncio.ensure_future(self.clock.sleep(self._seconds_allowed(start.step)))
        try:
            await asyncio.wait({work, alarm}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return self._outcome(work, task)
            cause = f"step {start.key} took longer than {start.step.timeout_s:g} s"
            return TaskResult(error=StepTimeout(cause, fix="raise timeout_s of the step").to_json())
        finally:
            # A step that is cancelled or late must not go on working: the runtime carries this to the agent.
            for pending in (work, alarm):
                pending.cancel()

    async def _task(self, start: Start, attempt: int) -> Task:
        record = self.record
        deadline = self.clock.now() + self._seconds_allowed(start.step)
        scope = CallScope(
            RunId(record.id), start.key, record.tenant, record.principal, attempt, record.epoch, deadline
        )
        spent = await self.journal.usage(record.id)
        hints = CallHints(
            run=RunId(record.id),
            step=start.key,
            epoch=record.epoch,
            attained_tokens=spent.input_tokens + spent.output_tokens,
            steps_left=self._steps_left[start.step.id],
            # The lease outlasts the step a little, so that what is told of a late step is that it is late.
            deadline=deadline + LEASE_MARGIN_S,
        )
        agent = start.step.agent or WORKER
        options = (
            {"call": start.step.call}
            if start.step.call
            else {"tool": start.step.tool}
            if start.step.tool
            else {}
        )
        return Task(scope, agent, start.input, hints=hints, options=options, spent=self._spent)

    def _seconds_allowed(self, step: Step) -> float:
        if self.record.deadline is None:
            return step.timeout_s
        return max(0.0, min(step.timeout_s, self.record.deadline - self.clock.now()))

    def _deadline_passed(self) -> bool:
        return self.record.deadline is not None and self.clock.now() >= self.record.deadline

    async def _wait(self) -> None:
        """Until a step ends or the run is cancelled; journals every step that ended, together."""
        cancelled = asyncio.ensure_future(self._cancelled.wait())
        try:
            await asyncio.wait({*self._running, cancelled}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            cancelled.cancel()
        changes: list[Change] = []
        for job in [job for job in self._running if job.done()]:
            del self._running[job]
            changes += self._ended(job.result())
        if changes:
            await self._commit(changes)
            reach("coordinator.step_done")

    def _ended(self, ended: _Ended) -> list[Change]:
        start, result, step = ended.start, ended.result, ended.start.step
        state: scheduler.State = "done" if result.error is None else "failed"
        self._note(start, state, ended.attempt, result)
        self._spent += result.usage
        change = StepChange(
            start.key,
            StepId(step.id),
            start.index,
            state,
            ended.attempt,
            agent=step.agent or WORKER,
            input=start.input,
            output=result.output,
            error=result.error,
            usage=result.usage,
        )
        if result.error is not None:
            return [change, EventDraft("step_failed", start.key, {"error": result.error})]
        seconds = round(self.clock.monotonic() - ended.began, 3)
        return [
            change,
            EventDraft("step_done", start.key, {"usage": to_json(result.usage), "seconds": seconds}),
        ]

    async def _skip(self, skips: Sequence[scheduler.Skip]) -> None:
        changes: list[Change] = []
        for skip in skips:
            self._executions[skip.key] = Execution(skip.key, StepId(skip.step.id), None, "skipped")
            changes += [
                StepChange(skip.key, StepId(skip.step.id), None, "skipped", 1),
                EventDraft("step_skipped", skip.key),
            ]
        await self._commit(changes)

    async def _finish(self, finished: Finished, status: RunStatus = "error") -> None:
        error = finished.error
        stopped = await self._stop_running(error)
        reach("coordinator.before_finish")
        usage = await self.journal.usage(self.record.id)
        if error is None:
            end = EventDraft("run_done", data={"usage": to_json(usage)})
            await self._commit([RunChange("success", output=finished.output, usage=usage), end])
            return
        reason = "deadline" if status == "timeout" else error["code"]
        change = RunChange(status, reason=reason, error=error, usage=usage)
        await self._commit([*stopped, change, EventDraft("run_failed", data={"error": error})])

    async def _finish_cancelled(self) -> None:
        stopped = await self._stop_running(RunCancelled("the run was cancelled").to_json())
        usage = await self.journal.usage(self.record.id)
        change = RunChange("interrupted", reason="cancelled", usage=usage)
        await self._commit([*stopped, change, EventDraft("run_cancelled")])

    async def _stop_running(self, error: dict[str, Any] | None = None) -> list[Change]:
        """Stop every step that still runs; returns what the journal is to say of those it knows as started."""
        jobs = list(self._running)
        self._running.clear()
        for job in jobs:
            job.cancel()
        for outcome in await asyncio.gather(*jobs, return_exceptions=True):
            if isinstance(outcome, Exception):
                logger.info("a step was stopped: %s", outcome)
        if not jobs or error is None:
            return []
        reason = RunCancelled(f"stopped with its run: {error['message']}").to_json()
        return [
            StepChange(
                step.key, step.step, step.index, "failed", step.attempt, agent=step.agent, error=reason
            )
            for step in await self.journal.steps(self.record.id)
            if step.state == "started"
        ]

    def _outcome(self, work: "asyncio.Future[TaskResult]", task: Task) -> TaskResult:
        """The task's result. An error of the runtime is the step's; one that came at the deadline is that."""
        try:
            result = work.result()
        except MantaError as error:
            result = TaskResult(error=error.to_json())
        except asyncio.CancelledError:
            result = TaskResult(
                error=StepError("the task was cancelled by its agent", code=AGENT_LOST).to_json()
            )
        except Exception as error:
            logger.exception("a task failed outside its agent")
            cause = f"{type(error).__name__}: {error}"
            result = TaskResult(error=StepError(cause, fix="see the logs").to_json())
        late = task.scope.deadline is not None and self.clock.now() >= task.scope.deadline
        if result.error is not None and result.error["code"] == RunCancelled.code and late:
            cause = f"step {task.scope.step} was not done by its deadline"
            timeout = StepTimeout(cause, fix="give it more time")
            return TaskResult(error=timeout.to_json(), usage=result.usage)
        return result

    async def _commit(self, changes: Sequence[Change]) -> None:
        self.watchers.publish(await self.journal.commit(self.record.id, self.record.epoch, changes))

    def _note(
        self, start: Start, state: scheduler.State, attempt: int, result: TaskResult | None = None
    ) -> None:
        output, error = (result.output, result.error) if result is not None else (None, None)
        self._executions[start.key] = Execution(
            start.key, StepId(start.step.id), start.index, state, attempt, output, error
        )


def _as_execution(step: StepRecord) -> Execution:
    return Execution(
        step.key, StepId(step.step), step.index, step.state, step.attempt, step.output, step.error
    )


def _deadline_error() -> dict[str, Any]:
    return StepTimeout("the run's deadline passed", fix="give the run more time").to_json()
