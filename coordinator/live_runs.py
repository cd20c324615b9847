"""The runs that this coordinator drives: admitted from the queue, claimed, executed, let go."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from coordinator.admission import Admission
from coordinator.endings import DEAD_LETTER
from coordinator.executor import Rest, RunExecutor
from coordinator.store.records import RunBrief, RunRecord
from coordinator.trials import SUSPICIOUS, Trials
from coordinator.works import Surroundings
from manta.config import LimitSettings
from manta.errors import Conflict, MantaError, NotFound, StaleEpoch, StepError, StorageUnavailable
from manta.faults import reach
from manta.graph import Graph, parse_graph
from manta.ids import RunId, Tenant
from manta.telemetry import get_logger

OPEN_RETRY_S = 1.0
THREAD_RETRY_S = 5.0
GRAPHS_KEPT = 256

logger = get_logger("coordinator")


@dataclass(slots=True)
class _Life:
    """A run that is being driven here. `executor` is there between its claim and its rest."""

    brief: RunBrief
    job: asyncio.Task[None] | None = None
    executor: RunExecutor | None = None
    claimed: RunRecord | None = None
    ours: bool = False
    """Whether this process has claimed it before."""


@dataclass(slots=True)
class LiveRuns:
    """`ended` is told of each run that is driven here no more."""

    around: Surroundings
    limits: LimitSettings
    ended: Callable[[RunId], None]
    _admission: Admission = field(init=False)
    _lives: dict[RunId, _Life] = field(default_factory=dict)
    _graphs: dict[tuple[str, str], Graph] = field(default_factory=dict)
    _draining: bool = False
    _trials: Trials = field(init=False)

    def __post_init__(self) -> None:
        self._admission = Admission(self.limits)
        self._trials = Trials(self.around.clock, self.limits.takeovers)

    @property
    def overloaded(self) -> bool:
        return self._admission.overloaded

    @property
    def counts(self) -> dict[str, int]:
        return {"active": self._admission.active, "queued": self._admission.queued}

    def executor(self, run: RunId) -> RunExecutor | None:
        life = self._lives.get(run)
        return life.executor if life is not None else None

    def drives(self, run: RunId) -> bool:
        return run in self._lives

    def reserve(self, brief: RunBrief) -> bool:
        """A place for a run that is about to be created; `start` it then, or `give_up` the place."""
        return not self._draining and self._admission.admit_now(brief)

    def give_up(self, run: RunId) -> None:
        self._admission.ended(run)
        self._admit()

    def start(self, brief: RunBrief, claimed: RunRecord | None = None) -> None:
        """Drive a run that has its place; `claimed` if it is ours already."""
        if brief.id in self._lives or self._draining:
            return
        life = self._lives[brief.id] = _Life(brief, claimed=claimed)
        self.around.watchers.open(brief.id)
        life.job = asyncio.create_task(self._live(life), name=f"run {brief.id}")

    def offer(self, brief: RunBrief) -> None:
        """A run that may go to work when its turn comes."""
        if not self._draining and brief.id not in self._lives:
            self._admission.offer(brief)
            self._admit()

    def end_cancelled(self, brief: RunBrief) -> None:
        """A run that nobody drives was cancelled: it is ended without a place, as that takes no work."""
        self._admission.withdraw(brief.id)
        self.start(brief)

    @property
    def contested(self) -> list[tuple[Tenant, RunId]]:
        """Runs that were put to rest here and keep others of their thread waiting."""
        return self._admission.contested

    def rests_no_more(self, run: RunId) -> None:
        """Another coordinator has taken such a run: its thread is the journal's affair."""
        self._admission.withdraw(run)
        self._admit()

    async def drain(self, grace_s: float) -> None:
        """Start nothing more; what is at work may end within the grace, the rest is left to the next owner."""
        self._draining = True
        for life in self._lives.values():
            if life.executor is not None:
                life.executor.drain()
        jobs = [life.job for life in self._lives.values() if life.job is not None]
        if jobs:
            grace = asyncio.ensure_future(self.around.clock.sleep(grace_s))
            everything = asyncio.ensure_future(asyncio.wait(jobs))
            await asyncio.wait({grace, everything}, return_when=asyncio.FIRST_COMPLETED)
            grace.cancel()
            everything.cancel()
        await self.close()

    async def close(self) -> None:
        self._draining = True
        jobs = [life.job for life in self._lives.values() if life.job is not None]
        for job in jobs:
            job.cancel()
        self._trials.close()
        await asyncio.gather(*jobs, return_exceptions=True)

    def _admit(self) -> None:
        for brief in self._admission.admit():
            self.start(brief)

    async def _live(self, life: _Life) -> None:
        rest: Rest | None = None
        try:
            while rest is None:
                rest = await self._drive_once(life)
        except (StaleEpoch, Conflict, NotFound) as error:
            self._not_ours(life, error)
        finally:
            run = life.brief.id
            self._trials.harmless(run)
            del self._lives[run]
            self.ended(run)
            self._admission.ended(run, keep_thread=rest == "waiting")
            self._admit()

    async def _drive_once(self, life: _Life) -> Rest | None:
        """Claim and execute; None if the run has to be claimed anew at once."""
        run = life.brief.id
        guilty = await self._tried(life)
        try:
            claimed = life.claimed or await self.around.journal.claim(run, self.around.name, again=life.ours)
            reach("coordinator.run_claimed")
            life.claimed, life.ours = None, True
            rest = await self._drive(life, claimed, guilty=guilty)
            if rest != "waiting":
                return rest
            # What came while the run was being put to rest found its executor deaf.
            status, _ = await self.around.journal.run_state(claimed.tenant, run)
            called = life.executor is not None and life.executor.called
            return None if called or status == "pending" else rest
        except StorageUnavailable as error:
            # The run is unfinished in the journal; it is claimed anew once the journal can be written.
            logger.error("run %s waits for its journal: %s", run, error)
            await self.around.clock.sleep(OPEN_RETRY_S)
            return None

    async def _tried(self, life: _Life) -> bool:
        """Whether the run is what killed its coordinators. It is not claimed before: a claim counts against it."""
        deaths = life.brief.takeovers + 1
        if life.ours or life.claimed is not None or life.brief.status != "running" or deaths < SUSPICIOUS:
            return False
        logger.warning("run %s was at work at each of %d deaths of its coordinator", life.brief.id, deaths)
        return await self._trials.turn(life.brief.id, deaths)

    async def _drive(self, life: _Life, claimed: RunRecord, *, guilty: bool) -> Rest:
        run = life.brief.id
        executor = RunExecutor(claimed, self.graph(claimed), self.around, lambda: self._trials.harmless(run))
        life.executor = executor
        if self._draining:
            executor.drain()
        try:
            if guilty:
                raise _poison(claimed.takeovers)
            return await executor.execute()
        except (StorageUnavailable, StaleEpoch, Conflict):
            raise
        except Exception as error:
            # A run must end, whatever went wrong: one that is left running would fail alike at every restart.
            if not isinstance(error, MantaError):
                logger.exception("run %s stopped by a defect", claimed.id)
            known = error if isinstance(error, MantaError) else StepError(f"{type(error).__name__}: {error}")
            await executor.fail(known)
            return "ended"

    def _not_ours(self, life: _Life, error: MantaError) -> None:
        logger.warning("run %s is not ours: %s", life.brief.id, error)
        if error.code == "thread_busy":
            # The run before it on its thread is elsewhere, or waits for a person since before we started.
            self.around.alarms.after(THREAD_RETRY_S, lambda: self.offer(life.brief))

    def graph(self, record: RunRecord) -> Graph:
        """The run's own graph, read once for all runs of its version."""
        key = (record.graph_name, record.graph_version)
        if key not in self._graphs:
            if len(self._graphs) >= GRAPHS_KEPT:
                self._graphs.clear()
            self._graphs[key] = parse_graph(record.graph, f"run {record.id}")
        return self._graphs[key]


def _poison(takeovers: int) -> StepError:
    return StepError(
        f"its coordinator died {takeovers} times while it ran and no step got done",
        fix="find out what it does to its coordinator, then `manta resume`",
        code=DEAD_LETTER,
    )
