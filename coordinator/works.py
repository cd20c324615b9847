"""The step executions of one run that are under way: their places, their time limits, how they are stopped.

Nothing here is journaled: the executor journals what `placed` and `ended` give it.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from agents.worker import pool_of
from coordinator.alarms import Alarm, Alarms
from coordinator.retry import AGENT_LOST, Tries, delay_s
from coordinator.scheduler import Start
from coordinator.store.journal import Journal
from coordinator.store.records import RunRecord
from coordinator.watch import Watchers
from coordinator.work_time import WorkTime
from manta.clock import Clock
from manta.errors import BudgetExceeded, MantaError, NotFound, RunCancelled, StepError, StepTimeout
from manta.ids import RunId, StepKey
from manta.messages import CallHints, CallScope, Limit, Task, TaskResult, Usage
from manta.protocols import AgentRuntime, Place
from manta.telemetry import get_logger

LEASE_MARGIN_S = 5.0

logger = get_logger("coordinator")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every executor of a coordinator shares."""

    journal: Journal
    runtime: AgentRuntime
    watchers: Watchers
    clock: Clock
    alarms: Alarms
    name: str
    """The coordinator's: agents send the record of their calls to it."""
    jitter: random.Random = field(default_factory=random.Random)


@dataclass(slots=True)
class Work:
    """A step execution under way: waiting for a place, at work, or waiting for its next try."""

    start: Start
    attempt: int
    limits: tuple[Limit, ...]
    tries: Tries = field(default_factory=Tries)
    result: TaskResult | None = None
    """What the latest try came to."""
    worked_s: float = 0.0
    """Of all tries."""
    journaled: bool = False
    place: Place | None = None
    job: asyncio.Task[None] | None = None
    alarm: Alarm | None = None
    began: float | None = None
    stop: MantaError | None = None
    """Set when the step is stopped from here; the result is then this error."""

    @property
    def key(self) -> StepKey:
        return self.start.key

    @property
    def agent(self) -> str:
        return pool_of(self.start.step)


class Works:
    """`news` is called whenever there is something to look at. `ends`: the run's deadline, monotonic."""

    def __init__(
        self,
        record: RunRecord,
        around: Surroundings,
        news: Callable[[], None],
        ends: float | None = None,
    ) -> None:
        self._record = record
        self._around = around
        self._clock = around.clock
        self._news = news
        self._ends = ends
        self._run_limit = () if record.budget is None else (Limit(StepKey(""), record.budget),)
        self._works: dict[StepKey, Work] = {}
        self._placed: list[Work] = []
        self._ended: list[Work] = []
        self._stopping: dict[asyncio.Task[None], Work] = {}
        self._time = WorkTime()
        self._time_alarm: Alarm | None = None

    def __len__(self) -> int:
        return len(self._works)

    def used_before(self, step: StepKey, usage: Usage) -> None:
        """What a step used under an earlier claim."""
        self._time.used_before(step, usage.milliseconds / 1000)

    def begin(self, start: Start, attempt: int) -> None:
        """A step may run: it gets a place now or as soon as there is one."""
        # A later attempt has a row in the journal from an earlier one.
        work = Work(start, attempt, (*self._run_limit, *start.limits), journaled=attempt > 1)
        self._works[start.key] = work
        self._find_place(work)

    def placed(self) -> list[Work]:
        """Those that got a place since last asked: to be journaled as started, then dispatched."""
        placed, self._placed = self._placed, []
        return [work for work in placed if self._works.get(work.key) is work]

    def ended(self) -> list[Work]:
        """Those whose try is over since last asked; each is then either `finished` or tried `again`."""
        ended, self._ended = self._ended, []
        return [work for work in ended if self._works.get(work.key) is work]

    def finished(self, work: Work) -> None:
        del self._works[work.key]

    def again(self, work: Work) -> float:
        """Try once more, after a pause; returns its seconds."""
        assert work.result is not None
        assert work.result.error is not None
        pause = delay_s(work.result.error, work.tries, work.start.step.retry, self._around.jitter)
        work.attempt += 1
        work.result, work.stop = None, None
        work.alarm = self._around.alarms.after(pause, lambda: self._find_place(work))
        return pause

    def dispatch(self, work: Work, spent: Usage) -> None:
        """Hand it to its agent. Its time begins now; one that is late is stopped."""
        work.began = self._clock.monotonic()
        allowed_s = self._seconds_allowed(work)
        task = self._task(work, spent, allowed_s)
        work.job = asyncio.create_task(self._perform(work, task), name=f"{self._record.id}/{work.key}")
        work.alarm = self._around.alarms.at(work.began + allowed_s, lambda: self._too_late(work))
        self._time.begin(work.key, work.limits, work.began)
        self._watch_time()

    def stop(self, key: StepKey, error: MantaError) -> Work | None:
        """Stop one for good; it is under way no more."""
        work = self._works.pop(key, None)
        if work is not None:
            job = work.job
            _interrupt(work, error)
            if job is None:
                self._let_go(work)
            else:
                self._stopping[job] = work
                job.add_done_callback(self._stopped)
        return work

    def _stopped(self, job: asyncio.Task[None]) -> None:
        # One that was stopped before it had begun did not come to its own end.
        self._let_go(self._stopping.pop(job))

    async def stop_all(self) -> Sequence[Work]:
        """Stop all and wait until they have; returns those that were under way."""
        works, self._works = list(self._works.values()), {}
        for work in works:
            _interrupt(work, RunCancelled("stopped with its run"))
        jobs = [*self._stopping, *(work.job for work in works if work.job is not None)]
        for outcome in await asyncio.gather(*jobs, return_exceptions=True):
            if isinstance(outcome, Exception):
                logger.info("a step was stopped: %s", outcome)
        for work in works:
            _leave(work)
        if self._time_alarm is not None:
            self._time_alarm.cancel()
        return works

    def _find_place(self, work: Work) -> None:
        work.alarm = None
        try:
            work.place = self._around.runtime.try_place(work.agent)
        except NotFound as error:
            work.result = TaskResult(error=error.to_json())
            self._end(work)
            return
        if work.place is not None:
            self._placed.append(work)
            self._news()
        else:
            work.job = asyncio.create_task(self._await_place(work), name=f"{self._record.id}/{work.key}")

    async def _await_place(self, work: Work) -> None:
        work.place = await self._around.runtime.place(work.agent, self._priority(work))
        work.job = None
        self._placed.append(work)
        self._news()

    async def _perform(self, work: Work, task: Task) -> None:
        work.result = await self._result(work, task)
        self._end(work)

    async def _result(self, work: Work, task: Task) -> TaskResult:
        try:
            result = await self._around.runtime.perform(task)
        except asyncio.CancelledError:
            if work.stop is None and _being_cancelled():
                raise
            result = TaskResult(error=StepError("its agent cancelled the task", code=AGENT_LOST).to_json())
        except MantaError as error:
            result = TaskResult(error=error.to_json())
        except Exception as error:
            logger.exception("a task failed outside its agent")
            failed = StepError(f"{type(error).__name__}: {error}", fix="see `manta logs`")
            result = TaskResult(error=failed.to_json())
        if work.stop is not None and result.error is not None:
            return TaskResult(error=work.stop.to_json(), usage=result.usage)
        return result

    def _end(self, work: Work) -> None:
        self._let_go(work)
        self._ended.append(work)
        self._news()

    def _let_go(self, work: Work) -> None:
        """Its time ends, and its place is free. Doing so twice does no harm."""
        now = self._clock.monotonic()
        if work.began is not None:
            work.worked_s += now - work.began
            work.began = None
            self._time.end(work.key, now)
            self._watch_time()
        _leave(work)

    def _task(self, work: Work, spent: Usage, allowed_s: float) -> Task:
        record, start = self._record, work.start
        deadline = self._clock.now() + allowed_s
        scope = CallScope(
            RunId(record.id), start.key, record.tenant, record.principal, work.attempt, record.epoch, deadline
        )
        hints = CallHints(
            run=RunId(record.id),
            step=start.key,
            epoch=record.epoch,
            priority=self._priority(work),
            attained_tokens=spent.input_tokens + spent.output_tokens,
            steps_left=start.steps_left,
            # The lease outlasts the step a little, so that what is told of a late step is that it is late.
            deadline=deadline + LEASE_MARGIN_S,
            semantic_cache=record.graph.get("semantic_cache"),
        )
        return Task(
            scope,
            work.agent,
            start.input,
            hints=hints,
            options=start.options,
            spent=spent,
            limits=work.limits,
            coordinator=self._around.name,
        )

    def _priority(self, work: Work) -> int:
        return self._record.priority + work.start.priority

    def _seconds_allowed(self, work: Work) -> float:
        timeout_s = work.start.step.timeout_s
        return (
            timeout_s
            if self._ends is None
            else max(0.0, min(timeout_s, self._ends - self._clock.monotonic()))
        )

    def _too_late(self, work: Work) -> None:
        if self._ends is not None and self._clock.monotonic() >= self._ends:
            error = StepTimeout(
                f"step {work.key} was not done by the run's deadline", fix="give it more time"
            )
        else:
            cause = f"step {work.key} took longer than {work.start.step.timeout_s:g} s"
            error = StepTimeout(cause, fix="raise timeout_s of the step")
        _interrupt(work, error)

    def _watch_time(self) -> None:
        ends_at = self._time.next_end()
        if self._time_alarm is not None:
            self._time_alarm.cancel()
            self._time_alarm = None
        if ends_at is not None:
            self._time_alarm = self._around.alarms.at(ends_at, self._out_of_time)

    def _out_of_time(self) -> None:
        self._time_alarm = None
        for key, cause in list(self._time.overdrawn(self._clock.monotonic())):
            if key in self._works:
                _interrupt(self._works[key], BudgetExceeded(cause, fix="raise the budget's seconds"))

    def __iter__(self) -> Iterator[Work]:
        return iter(self._works.values())


def _interrupt(work: Work, error: MantaError) -> None:
    work.stop = error
    if work.job is not None:
        work.job.cancel()
    if work.alarm is not None:
        work.alarm.cancel()


def _leave(work: Work) -> None:
    """Give back what it holds."""
    work.job = None
    if work.place is not None:
        work.place.release()
        work.place = None
    if work.alarm is not None:
        work.alarm.cancel()
        work.alarm = None


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
