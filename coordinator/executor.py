"""Drives one run: asks the scheduler, journals what came about, dispatches what follows.

Each time round of the loop is one commit: the results that have come in, and what starts because of them.
So a step's result is durable before its successor is dispatched, at the cost of one flush a step.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import manta
from coordinator import answers, endings
from coordinator.alarms import Alarm
from coordinator.keys import index_of, step_of
from coordinator.retry import may_retry
from coordinator.scheduler import Decision as Plan
from coordinator.scheduler import Execution, Finished, Progress, Wait
from coordinator.store.records import Change, EventDraft, RunChange, RunRecord, StepChange, StepRecord
from coordinator.works import Surroundings, Work, Works
from manta.errors import MantaError, RunCancelled, StepError, StepTimeout
from manta.faults import reach
from manta.graph import Graph
from manta.ids import StepId, StepKey
from manta.messages import TaskResult, Usage, to_json

Rest: TypeAlias = Literal["ended", "waiting", "released"]
"""Why a run needs no executor any more: it is over, it waits for a person, another coordinator may have it."""


class RunExecutor:
    """One claimed run. `execute` returns when the run needs nobody for a while; see `Rest`.

    `progress` is called from when on a step has got done, and that is durable.
    """

    def __init__(
        self,
        record: RunRecord,
        graph: Graph,
        around: Surroundings,
        progress: Callable[[], None] | None = None,
    ) -> None:
        self.record = record
        self._tell_of_progress = progress
        self._got_on = False
        self._graph = graph
        self._journal = around.journal
        self._watchers = around.watchers
        self._clock = around.clock
        self._alarms = around.alarms
        self._news = asyncio.Event()
        # A clock that is set makes no run end early or late: its time is counted from here.
        self._ends = None if record.deadline is None else self._moment(record.deadline)
        self._works = Works(record, around, self._news.set, self._ends)
        self._progress: Progress
        self._attempts: dict[StepKey, int] = {}
        self._waiting: dict[StepKey, dict[str, Any]] = {}
        self._expiries: dict[StepKey, float] = {}
        # At work under an earlier claim, says the journal, and not begun under this one.
        self._left: dict[StepKey, int] = {}
        self._changes: list[Change] = []
        self._own_alarms: list[Alarm] = []
        self._spent = Usage()
        self._cancelled = record.cancel_requested
        self._draining = False
        self._decided = False

    def cancel(self) -> None:
        """End the run as interrupted; the flag is already in the journal."""
        self._cancelled = True
        self._news.set()

    def drain(self) -> None:
        """Start nothing any more, and let go of the run when what is at work has ended."""
        self._draining = True
        self._news.set()

    def decided(self) -> None:
        """A person's decision on a step is in the journal, or the time for one is over."""
        self._decided = True
        self._news.set()

    @property
    def called(self) -> bool:
        """Whether somebody wants something of it that it has not looked at."""
        return self._cancelled or self._decided

    async def fail(self, error: MantaError) -> None:
        """End the run with an error that is not a step's."""
        steps = await self._journal.steps(self.record.id)
        open_ = [(step.key, step.attempt) for step in steps if step.state in ("started", "waiting")]
        self._changes = endings.stopped(open_, error.message)
        self._left.clear()
        self._waiting.clear()
        await self._finish(Finished(error=error.to_json()))

    async def execute(self) -> Rest:
        try:
            await self._take_up()
            return await self._drive()
        finally:
            await self._works.stop_all()
            for alarm in self._own_alarms:
                alarm.cancel()

    async def _take_up(self) -> None:
        record = self.record
        thread = None
        if record.thread is not None:
            thread = await answers.thread_scope(self._journal, record.tenant, record.thread)
        self._progress = Progress(self._graph, record.input, thread=thread, overrides=record.overrides)
        if record.epoch > 1 or record.forked_from is not None:
            for step in await self._journal.steps(record.id):
                self._recall(step)
        if record.epoch > 1 and await self._journal.events(record.id, limit=1):
            self._changes.append(EventDraft("run_resumed", data={"epoch": record.epoch}))
        else:
            self._changes.append(EventDraft("run_started", data=self._facts()))
        if self._ends is not None:
            self._ring_at(self._ends, self._news.set)

    def _recall(self, step: StepRecord) -> None:
        """Steps that were at work when the last coordinator died run again; their recorded calls are replayed."""
        self._spent += step.usage
        self._works.used_before(step.key, step.usage)
        if step.state in ("started", "waiting"):
            self._attempts[step.key] = step.attempt
        if step.waiting is not None and step.state == "waiting":
            self._hold(step.key, step.waiting)
            self._decided = True
        if step.state == "started":
            self._left[step.key] = step.attempt
        else:
            self._note(step.key, step.state, step.attempt, step.output, step.error)

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"graph": self._graph.name, "version": self._graph.version}
        facts["steps"] = [step.id for step in self._graph.steps]
        facts["manta"] = manta.__version__
        if self.record.forked_from is not None:
            facts["forked_from"] = self.record.forked_from
        return facts

    async def _drive(self) -> Rest:
        while True:
            self._news.clear()
            if self._cancelled:
                return await self._finish_cancelled()
            if self._ends is not None and self._clock.monotonic() >= self._ends:
                error = StepTimeout("the run's deadline passed", fix="give it more time")
                return await self._finish(Finished(error=error.to_json()), late=True)
            if self._decided:
                await self._take_decisions()
            ended = self._works.ended()
            for work in ended:
                self._judge(work)
            finished = self._advance()
            if finished is not None:
                return await self._finish(finished)
            started = self._started()
            if self._changes:
                await self._commit()
                reach("coordinator.step_done" if ended else "coordinator.step_started")
                if self._got_on and self._tell_of_progress is not None:
                    self._tell_of_progress()
            for work in started:
                self._works.dispatch(work, self._spent)
            if not len(self._works) and not self._news.is_set():
                return await self._come_to_rest()
            await self._news.wait()

    async def _come_to_rest(self) -> Rest:
        if self._draining:
            return "released"
        if not self._waiting:
            # The scheduler neither starts nor ends anything: a defect, and the run must not hang for ever.
            raise StepError("the run cannot go on: no step is at work and none can start")
        await self._park()
        return "waiting"

    def _advance(self) -> Finished | None:
        """Begin what the scheduler lets begin; what needs no agent is settled on the way."""
        while True:
            plan = self._progress.decide()
            for key in plan.abandoned:
                self._abandon(key)
            if plan.finished is not None:
                return plan.finished
            if not self._settle(plan):
                break
        if not self._draining:
            for start in plan.starts:
                self._note(start.key, "started", 1)
                self._works.begin(start, self._attempts.pop(start.key, 0) + 1)
        return None

    def _settle(self, plan: Plan) -> bool:
        """Skips, routes and questions to people need no agent. Whether there were any."""
        for skip in plan.skips:
            self._note(skip.key, "skipped", 1)
            self._tell("step_skipped", StepChange(skip.key, step_of(skip.key), None, "skipped", 1))
        for settled in plan.settles:
            self._conclude(settled.key, 1, TaskResult(settled.output, settled.error))
        for wait in plan.waits:
            self._ask(wait)
        return bool(plan.skips or plan.settles or plan.waits)

    def _ask(self, wait: Wait) -> None:
        waiting = answers.waiting(wait.waiting, self._clock.now())
        self._hold(wait.key, waiting)
        self._note(wait.key, "waiting", 1)
        change = StepChange(wait.key, step_of(wait.key), None, "waiting", 1, waiting=waiting)
        self._tell("step_waiting", change, waiting)

    def _hold(self, key: StepKey, waiting: dict[str, Any]) -> None:
        self._waiting[key] = waiting
        if waiting.get("expires_at") is not None:
            self._expiries[key] = self._moment(float(waiting["expires_at"]))
            self._ring_at(self._expiries[key], self.decided)

    def _started(self) -> list[Work]:
        """Those that have a place, as changes; they are dispatched once these are durable."""
        placed = self._works.placed()
        if placed:
            reach("coordinator.place_got")
        for work in placed:
            work.journaled = True
            self._left.pop(work.key, None)
            change = self._step_change(work, "started")
            self._tell("step_started", change, {"attempt": work.attempt, "agent": work.agent})
        return placed

    def _judge(self, work: Work) -> None:
        """A try is over: try again, ask a person, or take it as the step's end."""
        result = work.result
        assert result is not None
        if result.error is not None:
            work.tries.note(result.error)
            if may_retry(result.error, work.tries, work.start.step.retry):
                attempt = work.attempt
                facts = {"attempt": attempt, "error": result.error}
                facts["delay_s"] = round(self._works.again(work), 3)
                self._changes.append(EventDraft("step_retried", work.key, facts))
                reach("coordinator.step_retried")
                return
        self._works.finished(work)
        usage = replace(result.usage, milliseconds=round(work.worked_s * 1000))
        result = replace(result, usage=usage)
        if result.unknown_call is not None:
            self._ask_about_call(work, result)
        else:
            self._conclude(work.key, work.attempt, result, work)

    def _ask_about_call(self, work: Work, result: TaskResult) -> None:
        waiting = answers.unknown_call(result)
        self._hold(work.key, waiting)
        self._attempts[work.key] = work.attempt
        self._note(work.key, "waiting", work.attempt)
        change = replace(self._step_change(work, "waiting"), usage=result.usage, waiting=waiting)
        self._tell("step_waiting", change, waiting)

    def _conclude(self, key: StepKey, attempt: int, result: TaskResult, work: Work | None = None) -> None:
        """A step execution has come to its end, done or failed."""
        state: Literal["done", "failed"] = "done" if result.error is None else "failed"
        self._attempts.pop(key, None)
        self._note(key, state, attempt, result.output, result.error)
        self._left.pop(key, None)
        self._got_on = self._got_on or state == "done"
        self._spent += result.usage
        blank = StepChange(key, step_of(key), index_of(key), state, attempt)
        change = replace(
            blank if work is None else self._step_change(work, state),
            output=result.output,
            error=result.error,
            usage=result.usage,
            notes=result.notes,
        )
        if result.error is not None:
            self._tell("step_failed", change, {"error": result.error})
        else:
            seconds = result.usage.milliseconds / 1000
            self._tell("step_done", change, {"usage": to_json(result.usage), "seconds": seconds})

    async def _take_decisions(self) -> None:
        self._decided = False
        for decision in await self._journal.decisions(self.record.id):
            waiting = self._waiting.pop(decision.step, None)
            self._expiries.pop(decision.step, None)
            taken = answers.take(decision, waiting)
            self._changes += taken.changes
            if taken.result is not None:
                self._conclude(decision.step, self._attempts.get(decision.step, 1), taken.result)
            elif waiting is not None:
                self._progress.forget(decision.step)
        for key in answers.expired(self._expiries, self._clock.monotonic()):
            del self._expiries[key]
            if key in self._waiting:
                self._conclude(key, self._attempts.get(key, 1), answers.timed_out(self._waiting.pop(key)))
        reach("coordinator.decision_taken")

    async def _park(self) -> None:
        """Nothing can happen without a person: the run leaves this process."""
        ends = [float(w["expires_at"]) for w in self._waiting.values() if w.get("expires_at") is not None]
        if self.record.deadline is not None:
            ends.append(self.record.deadline)
        self._changes += [
            EventDraft("run_waiting", data={"steps": sorted(self._waiting)}),
            RunChange("waiting", reason="waiting", wake_at=min(ends, default=None)),
        ]
        await self._commit()
        reach("coordinator.parked")

    def _abandon(self, key: StepKey) -> None:
        """What is around this execution has ended: nobody waits for it any more."""
        self._waiting.pop(key, None)
        work = self._works.stop(key, RunCancelled("stopped"))
        error = RunCancelled("stopped: the step around it has ended").to_json()
        before = self._attempts.pop(key, 1)
        attempt = work.attempt if work is not None else before
        self._note(key, "failed", attempt, error=error)
        if work is None or work.journaled or self._left.pop(key, None) is not None:
            change = StepChange(key, step_of(key), index_of(key), "failed", attempt, error=error)
            self._tell("step_failed", change, {"error": error})

    async def _finish(self, finished: Finished, *, late: bool = False) -> Rest:
        error = finished.error
        if error is None:
            self._changes += endings.stopped(self._left.items(), "it was not needed any more")
            self._changes += endings.success(self.record, finished.output, self._spent)
        else:
            await self._stop_all(str(error["message"]))
            self._changes += endings.failure(error, late=late)
        reach("coordinator.before_finish")
        await self._commit()
        reach("coordinator.run_ended")
        return "ended"

    async def _finish_cancelled(self) -> Rest:
        await self._stop_all("the run was cancelled")
        self._changes += endings.cancelled()
        reach("coordinator.before_finish")
        await self._commit()
        reach("coordinator.run_ended")
        return "ended"

    async def _stop_all(self, cause: str) -> None:
        """Stop every step that still runs; the journal is to say so of those it knows of."""
        works = await self._works.stop_all()
        known = dict(self._left)
        known |= {work.key: work.attempt for work in works if work.journaled}
        known |= {key: self._attempts.get(key, 1) for key in self._waiting}
        self._changes += endings.stopped(known.items(), cause)

    async def _commit(self) -> None:
        changes, self._changes = self._changes, []
        self._watchers.publish(await self._journal.commit(self.record.id, self.record.epoch, changes))

    def _moment(self, at: float) -> float:
        """A time of day as a moment of the monotonic clock; one that has passed is now."""
        return self._clock.monotonic() + max(0.0, at - self._clock.now())

    def _ring_at(self, moment: float, call: Callable[[], None]) -> None:
        self._own_alarms.append(self._alarms.at(moment, call))

    def _step_change(self, work: Work, state: Any) -> StepChange:
        start = work.start
        return StepChange(
            start.key, start.step.id, start.index, state, work.attempt, agent=work.agent, input=start.input
        )

    def _tell(self, event: Any, change: StepChange, data: Mapping[str, Any] | None = None) -> None:
        self._changes += [change, EventDraft(event, change.key, dict(data or {}))]

    def _note(self, key: StepKey, state: Any, attempt: int, output: Any = None, error: Any = None) -> None:
        self._progress.note(Execution(key, StepId(step_of(key)), state, attempt, output, error))
