"""Executes a recorded run again, step by step, and stops where the present code leaves the record.

The scheduler, the agents and the functions of `call` steps are the present ones. Calls, approvals and a
person's decisions are answered from the record. One step after the other: in a replay nothing is waited for.
"""

from dataclasses import dataclass
from typing import Any

from agents.worker import pool_of
from coordinator.keys import step_of
from coordinator.offline.differences import same, value_difference
from coordinator.offline.log import CurrentLog, Mismatch, ReplayLog
from coordinator.offline.recording import NEVER, Recording, StepRecording
from coordinator.retry import AGENT_LOST
from coordinator.runtime import LocalRuntime
from coordinator.scheduler import Decision, Execution, Finished, Progress, Settle, Skip, Start, Wait
from manta.errors import (
    BudgetExceeded,
    OutcomeUnknown,
    Rejected,
    RunCancelled,
    StaleEpoch,
    StepTimeout,
    Unavailable,
    error_from_json,
)
from manta.graph import Graph
from manta.ids import RunId, StepId, StepKey
from manta.messages import CallHints, CallScope, Task, TaskResult

FROM_OUTSIDE = (BudgetExceeded, OutcomeUnknown, Rejected, RunCancelled, StaleEpoch, StepTimeout, Unavailable)
"""Errors that come to a step and not from its code: a replay cannot bring them about."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay came to.

    `output_equal` is None where there is none in the record. `stopped_at`: the executions at which the record
    of an unfinished or failed run ends.
    """

    steps: int
    calls: int
    output_equal: bool | None
    stopped_at: tuple[StepKey, ...]
    mismatch: Mismatch | None = None


class Replay:
    """One replay of one run.

    Args:
        runtime: hosts whose calls go to `log`, and which can reach nothing else.
    """

    def __init__(self, recording: Recording, graph: Graph, runtime: LocalRuntime, log: CurrentLog) -> None:
        self._recording = recording
        self._runtime = runtime
        self._log = log
        run = recording.run
        self._progress = Progress(graph, run.input, thread=recording.thread, overrides=run.overrides)
        self._steps = 0
        self._calls = 0
        self._noted: set[StepKey] = set()
        self._stopped_at: list[StepKey] = []

    async def execute(self) -> Replayed:
        try:
            finished = await self._drive()
            equal = self._compare_end(finished)
        except _Leaves as left:
            return self._came_to(None, left.mismatch)
        return self._came_to(equal)

    def _came_to(self, equal: bool | None, mismatch: Mismatch | None = None) -> Replayed:
        return Replayed(self._steps, self._calls, equal, tuple(self._stopped_at), mismatch)

    async def _drive(self) -> Finished | None:
        """Until the run is over, or nothing more is recorded."""
        while True:
            plan = self._progress.decide()
            if plan.finished is not None:
                return plan.finished
            for key in plan.abandoned:
                self._note(key, "failed", error=RunCancelled("stopped").to_json())
            for skip in plan.skips:
                self._skip(skip)
            for settled in plan.settles:
                self._settle(settled)
            if plan.abandoned or plan.skips or plan.settles:
                continue
            match self._next(plan):
                case None:
                    return None
                case Wait() as wait:
                    self._answer(wait)
                case start:
                    await self._start(start)

    def _next(self, plan: Decision) -> Start | Wait | None:
        """What ended first when it was recorded, so that nothing is missed of what a failure cuts off."""
        steps = self._recording.steps

        def order(one: Start | Wait) -> int:
            return steps[one.key].order if one.key in steps else NEVER

        open_: list[Start | Wait] = [*plan.waits, *plan.starts]
        return min(open_, key=order, default=None)

    # What needs no agent

    def _skip(self, skip: Skip) -> None:
        recorded = self._recorded(skip.key)
        if recorded is not None and recorded.record.state != "skipped":
            raise _Leaves(Mismatch(skip.key, f"it is skipped now, and was {recorded.record.state}"))
        self._note(skip.key, "skipped")

    def _settle(self, settled: Settle) -> None:
        recorded = self._recorded(settled.key)
        if recorded is not None:
            self._compare(settled.key, "its outcome", _ended(recorded), [settled.output, settled.error])
        state = "done" if settled.error is None else "failed"
        self._note(settled.key, state, settled.output, settled.error)

    def _answer(self, wait: Wait) -> None:
        """A person's answer, from the record."""
        recorded = self._recorded(wait.key)
        if recorded is None or recorded.record.state == "waiting":
            self._stop(wait.key)
            return
        if recorded.asked is not None:
            names = ("question", "show", "editable")
            before, now = ([what.get(name) for name in names] for what in (recorded.asked, wait.waiting))
            self._compare(wait.key, "what the person is asked", before, now)
        self._steps += 1
        self._note_recorded(recorded)

    # What agents do

    async def _start(self, start: Start) -> None:
        recorded = self._recorded(start.key)
        if recorded is None:
            self._stop(start.key)
            return
        if recorded.record.state == "skipped":
            raise _Leaves(Mismatch(start.key, "it runs now, and was skipped"))
        self._compare(start.key, "its input", recorded.record.input, start.input)
        self._steps += 1
        if recorded.copied:
            self._note_recorded(recorded)
            return
        log = self._log.open(recorded)
        result = await self._runtime.perform(self._task(start, recorded))
        self._calls += log.replayed
        if log.mismatch is not None:
            raise _Leaves(log.mismatch)
        self._judge(recorded, result, log)

    def _judge(self, recorded: StepRecording, result: TaskResult, log: ReplayLog) -> None:
        """Whether the step came to what it came to then."""
        key, state = recorded.record.key, recorded.record.state
        if log.ended and state != "done":
            self._end_of_record(recorded)
            return
        left_over = log.left_over()
        if left_over is not None:
            raise _Leaves(left_over)
        before, now = _ended(recorded), [result.output, result.error]
        if state == "done" and result.error is not None:
            raise _Leaves(Mismatch(key, f"it fails now: {error_from_json(result.error)}"))
        if state == "done":
            self._compare(key, "its output", recorded.record.output, result.output)
        elif state == "failed" and not _from_outside(recorded.record.error):
            self._compare(key, "its outcome", before, now)
        else:
            self._end_of_record(recorded)
            return
        self._note_recorded(recorded)

    def _end_of_record(self, recorded: StepRecording) -> None:
        """The step was cut off here. What stopped it is taken from the record, if that was not its run's end."""
        error = recorded.record.error
        if recorded.record.state == "failed" and error is not None and error["code"] != RunCancelled.code:
            self._note_recorded(recorded)
        else:
            self._stop(recorded.record.key)

    def _task(self, start: Start, recorded: StepRecording) -> Task:
        run = self._recording.run
        scope = CallScope(RunId(run.id), start.key, run.tenant, run.principal)
        hints = CallHints(run=RunId(run.id), step=start.key)
        return Task(
            scope, pool_of(start.step), start.input, hints=hints, options=start.options, spent=recorded.spent
        )

    # Noting and comparing

    def _recorded(self, key: StepKey) -> StepRecording | None:
        """Raises _Leaves for what is not in the record although the run is there to its end."""
        recorded = self._recording.steps.get(key)
        if recorded is None and self._recording.complete:
            raise _Leaves(Mismatch(key, "it is not in the record"))
        return recorded

    def _stop(self, key: StepKey) -> None:
        """The record has no more of this execution: it stays under way."""
        self._stopped_at.append(key)
        self._note(key, "started")

    def _note_recorded(self, recorded: StepRecording) -> None:
        record = recorded.record
        self._note(record.key, record.state, record.output, record.error)

    def _note(self, key: StepKey, state: Any, output: Any = None, error: Any = None) -> None:
        self._noted.add(key)
        self._progress.note(Execution(key, StepId(step_of(key)), state, 1, output, error))

    def _compare(self, key: StepKey | None, what: str, recorded: Any, now: Any) -> None:
        if not same(recorded, now):
            raise _Leaves(Mismatch(key, f"{what} differs", difference=tuple(value_difference(recorded, now))))

    def _compare_end(self, finished: Finished | None) -> bool | None:
        run = self._recording.run
        if run.status == "success":
            if finished is None:
                raise _Leaves(Mismatch(None, "it does not come to its end any more"))
            if finished.error is not None:
                raise _Leaves(Mismatch(None, f"it fails now: {error_from_json(finished.error)}"))
            self._compare(None, "its output", run.output, finished.output)
            self._require_all()
            return True
        if finished is not None and run.status == "error" and not _from_outside(run.error):
            self._compare(None, "its end", [None, run.error], [finished.output, finished.error])
        return None

    def _require_all(self) -> None:
        """No step that got somewhere may be left out."""
        for key, recorded in self._recording.steps.items():
            if key not in self._noted and not _from_outside(recorded.record.error):
                raise _Leaves(Mismatch(key, "the recorded step no longer runs"))


def _ended(recorded: StepRecording) -> list[Any]:
    return [recorded.record.output, recorded.record.error]


def _from_outside(error: dict[str, Any] | None) -> bool:
    return error is not None and (
        error["code"] == AGENT_LOST or isinstance(error_from_json(error), FROM_OUTSIDE)
    )


class _Leaves(Exception):
    """The present code leaves the record."""

    def __init__(self, mismatch: Mismatch) -> None:
        super().__init__(mismatch.cause)
        self.mismatch = mismatch
