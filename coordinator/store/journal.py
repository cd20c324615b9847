"""The journal: what was acknowledged is in it, and it can be read back after any crash.

Writes from many callers share one flush (see `writer`), reads run beside them. All methods may be
called from any event loop. Every write may raise StorageUnavailable, after which it can be repeated.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError

from coordinator.store import calls, decisions, leases, reads, rows, runs
from coordinator.store.engine import READERS, Storage, open_storage
from coordinator.store.feedback import Feedback
from coordinator.store.items import Items
from coordinator.store.keys import Keys
from coordinator.store.kinds import Commits, Creations
from coordinator.store.models import Models
from coordinator.store.records import (
    Change,
    Decision,
    DecisionAction,
    NewRun,
    RunBrief,
    RunFlags,
    RunRecord,
    RunStatus,
    StepCall,
    StepRecord,
)
from coordinator.store.retention import Retention
from coordinator.store.schedules import Schedules
from coordinator.store.threads import Threads
from coordinator.store.webhooks import Webhooks
from coordinator.store.writer import GroupWriter
from manta.clock import Clock
from manta.errors import InvalidInput, StorageUnavailable
from manta.events import Event
from manta.ids import RunId, StepKey, Tenant, ThreadId
from manta.messages import Budget, CallIntent, CallOutcome, RecordedCall, Usage

T = TypeVar("T")


class Journal:
    """Get one from `Journal.open`. What lives beside the runs has rooms of its own: `threads`, `items` and so on."""

    def __init__(self, storage: Storage, clock: Clock, readers: ThreadPoolExecutor) -> None:
        self._storage = storage
        self._clock = clock
        self._readers = readers
        self._writer = GroupWriter(storage)
        self._commits = Commits(clock)
        self._creations = Creations(clock)
        self._closed = False
        doors = (self._write, self._read, clock)
        self.threads = Threads(*doors)
        self.items = Items(*doors)
        self.schedules = Schedules(*doors)
        self.webhooks = Webhooks(*doors)
        self.feedback = Feedback(*doors)
        self.retention = Retention(*doors)
        self.keys = Keys(*doors)
        self.models = Models(*doors)

    @classmethod
    async def open(
        cls, url: str, clock: Clock, *, retry_delays: tuple[float, ...] | None = None
    ) -> "Journal":
        """Opens the database at `url` and brings its tables up to date.

        Args:
            url: `sqlite:////path/to/file` or `postgresql://...`.
            retry_delays: seconds to wait between tries when the database is lost; None is some seconds in
                all on PostgreSQL and none on SQLite.

        Raises:
            StorageUnavailable: it cannot be reached or written now; nothing is left open.
            InvalidConfig: no journal can live at this URL.
        """
        readers = ThreadPoolExecutor(READERS, thread_name_prefix="journal-reader")
        try:
            loop = asyncio.get_running_loop()
            storage = await loop.run_in_executor(readers, open_storage, url, retry_delays)
        except BaseException:
            readers.shutdown(wait=False)
            raise
        return cls(storage, clock, readers)

    async def close(self) -> None:
        """Writes what was given before, then lets go of the database."""
        self._closed = True
        self._storage.stop.set()
        await asyncio.to_thread(self._writer.close)
        await asyncio.to_thread(self._readers.shutdown)
        self._storage.dispose()

    @property
    def shared(self) -> bool:
        """Whether other coordinators may have the same journal."""
        return self._storage.write.dialect.name == "postgresql"

    @property
    def flushes(self) -> int:
        """COMMITs so far; many writes share one."""
        return self._writer.flushes

    async def create_run(self, new: NewRun, owner: str | None = None) -> tuple[RunRecord, bool]:
        """Writes a run; False with the run that the same request (key or id, and body) made before.

        With an `owner` it is claimed at once, unless it has to queue for its thread: then it is pending too.

        Raises:
            IdempotencyConflict: the tenant used the idempotency key or the id with another body.
            NotFound: there is no such thread, or no such run to fork from.
            Conflict: code `thread_busy` (only with `reject_if_busy`), or an execution to be copied is not done.
            InvalidInput: a name or a value cannot be kept.
        """
        return await self._writer.run_one_of(self._creations, (new, owner))

    async def claim(self, run_id: RunId, owner: str, *, again: bool = False) -> RunRecord:
        """Makes `owner` the run's only writer, by a new epoch; calls begun before it become unknown.

        `again`: it has the run already and lost only its way to the journal; that is no take-over from the dead.

        Raises:
            NotFound: no such run.
            Conflict: code `run_terminal` (it is finished), `run_owned` (its owner is alive) or `thread_busy`
                (another run of its thread is at work or comes first).
        """
        return await self._write(lambda c: leases.claim(c, run_id, owner, self._clock.now(), again=again))

    async def renew(self, owner: str, lease_until: float) -> None:
        """Nobody else takes `owner`'s runs before `lease_until`, in seconds since the epoch."""
        await self._write(lambda c: leases.renew(c, owner, lease_until))

    async def release(self, owner: str) -> int:
        """Lets go of all runs of `owner` and of its lease; returns how many runs others may take now."""
        return await self._write(lambda c: leases.release(c, owner))

    async def takeable(self, owner: str, limit: int, *, own: bool = True) -> list[RunBrief]:
        """Running runs that `owner` may claim, the oldest first: nobody's, those of the dead, and its `own`."""
        return await self._read(lambda c: leases.takeable(c, owner, self._clock.now(), limit, own=own))

    async def queued(self, after_number: int, limit: int) -> list[RunBrief]:
        """Pending runs with greater numbers, in order. A run that becomes pending again keeps its number."""
        return await self._read(lambda c: leases.queued(c, after_number, limit))

    async def due(self, now: float, limit: int) -> list[RunBrief]:
        """Waiting runs to be looked at: their `wake_at` has come, or somebody has cancelled them."""
        return await self._read(lambda c: leases.due(c, now, limit))

    async def flags(self, owner: str) -> list[RunFlags]:
        """The runs at work at `owner` that were cancelled or have decisions to be acted on."""
        return await self._read(lambda c: leases.flags(c, owner))

    async def backlog(self) -> dict[str, int]:
        """How many runs of all tenants are `pending`, `running` and `waiting`."""
        return await self._read(leases.backlog)

    async def commit(self, run_id: RunId, epoch: int, changes: Sequence[Change]) -> list[Event]:
        """All changes at once or none; returns the events among them with their numbers, gapless per run.

        A step's row keeps its `agent` and `input` when a later change leaves them out.

        Raises:
            NotFound: no such run, or its thread is not there.
            StaleEpoch: another epoch has the run, nobody works on it, or another attempt has the step.
            Conflict: code `run_terminal` (the run is finished) or `step_done` (its output is written); a
                decision or a call that is settled is not there.
        """
        return await self._writer.run_one_of(self._commits, (run_id, epoch, changes))

    async def request_cancel(self, tenant: Tenant, run_id: RunId) -> RunRecord:
        """Sets the durable flag; setting it twice is harmless. A waiting run is `due` then.

        Raises:
            NotFound: the tenant has no such run.
            Conflict: code `run_terminal`, the run is finished.
        """
        return await self._write(lambda c: runs.request_cancel(c, tenant, run_id, self._clock.now()))

    async def decide(
        self,
        tenant: Tenant,
        run_id: RunId,
        step: StepKey | None,
        action: DecisionAction,
        value: Any,
        comment: str,
        by: str,
        key: str | None = None,
    ) -> RunRecord:
        """Writes a person's answer to a step that waits; None is the only one. The same answer twice is harmless.

        A run that nobody has in memory becomes pending. A `key` that came before changes nothing, whatever waits now.

        Raises:
            NotFound: the tenant has no such run.
            Conflict: code `not_waiting`, `ambiguous` (several steps wait) or `decided` (otherwise).
            InvalidInput: the action does not answer what the step waits for.
            IdempotencyConflict: the key came with another answer.
        """
        now = self._clock.now()
        return await self._write(
            lambda c: decisions.decide(c, tenant, run_id, step, action, value, comment, by, key, now)
        )

    async def decisions(self, run_id: RunId) -> list[Decision]:
        """The run's decisions that its owner has not acted on, in order."""
        return await self._read(lambda c: decisions.read_decisions(c, run_id))

    async def reopen(
        self,
        tenant: Tenant,
        run_id: RunId,
        budget: Budget | None = None,
        keep: Collection[StepKey] = (),
        key: str | None = None,
    ) -> RunRecord:
        """Makes a run that did not end well pending again, with a new budget if one is given.

        What was done stays, and so do the failures in `keep`; other executions that did not get done are
        forgotten, and of their calls those that failed or are of unknown outcome may be made again if they
        may be repeated at all. A `key` that came before changes nothing.

        Raises:
            NotFound: the tenant has no such run.
            Conflict: code `run_terminal` (it ended well) or `run_active` (it is not over).
            IdempotencyConflict: the key came with another budget.
        """
        now = self._clock.now()
        return await self._write(lambda c: runs.reopen(c, tenant, run_id, budget, keep, key, now))

    async def delete_run(self, tenant: Tenant, run_id: RunId) -> None:
        """Deletes a finished run with all that belongs to it.

        Raises:
            NotFound: the tenant has no such run.
            Conflict: code `run_active`, it is not over.
        """
        await self._write(lambda c: runs.delete_run(c, tenant, run_id))

    async def begin_call(self, intent: CallIntent) -> RecordedCall | None:
        """Journals an intent; a call that is done is returned instead, to be replayed.

        A passing failure (an error of a retryable class) of an earlier attempt is not replayed but begun
        again, unless the call must not be repeated.

        Raises:
            StaleEpoch: the run's epoch or the step's attempt is another one.
            OutcomeUnknown: the call must not be repeated and an earlier try has no outcome.
            BudgetExceeded: it may use more than one of its limits leaves.
            NotFound: the tenant has no such run.
        """
        return await self._write(lambda c: calls.begin_call(c, intent, self._clock.now()))

    async def finish_call(self, outcome: CallOutcome) -> None:
        """Journals an outcome; one that is there already stays.

        Raises:
            StaleEpoch: the run's epoch or the step's attempt is another one.
            Conflict: the call was not begun.
            NotFound: the tenant has no such run.
        """
        await self._write(lambda c: calls.finish_call(c, outcome, self._clock.now()))

    async def get_run(self, tenant: Tenant, run_id: RunId) -> RunRecord:
        """Raises NotFound, also for another tenant's run."""
        return await self._read(lambda c: rows.read_run(c, tenant, run_id))

    async def run_state(self, tenant: Tenant, run_id: RunId) -> tuple[str, int]:
        """Status and last event number: what a watcher asks again and again. Raises NotFound."""
        return await self._read(lambda c: reads.run_state(c, tenant, run_id))

    async def list_runs(
        self,
        tenant: Tenant,
        *,
        status: RunStatus | Sequence[RunStatus] | None = None,
        graph: str | None = None,
        thread: ThreadId | None = None,
        reason: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        asking: bool = False,
        limit: int = 10,
        offset: int = 0,
    ) -> list[RunRecord]:
        """The tenant's runs, newest first; `metadata` entries must all be there with exactly these values.

        `asking`: only those with a step that waits for a person, also when others of their steps are at work.
        """
        return await self._read(
            lambda c: reads.list_runs(
                c, tenant, status, graph, thread, reason, metadata, asking, limit, offset
            )
        )

    async def events(self, run_id: RunId, after: int = 0, limit: int = 1000) -> list[Event]:
        """The run's events with `seq > after`, in order; none for a run that does not exist."""
        return await self._read(lambda c: reads.read_events(c, run_id, after, limit))

    async def steps(self, run_id: RunId) -> list[StepRecord]:
        """The run's step executions, in the order in which they first appeared."""
        return await self._read(lambda c: reads.read_steps(c, run_id))

    async def calls(self, run_id: RunId, *, whole: bool = False) -> list[StepCall]:
        """The run's calls, in the order in which they were first begun; `whole` with requests and notes."""
        return await self._read(lambda c: reads.read_calls(c, run_id, whole))

    async def usage(self, run_id: RunId) -> Usage:
        """What the run's finished calls and step executions have used; nothing for a run that does not exist."""
        return await self._read(lambda c: reads.read_usage(c, run_id))

    async def _write(self, operation: Callable[[Connection], T]) -> T:
        return await self._writer.run(operation)

    async def _read(self, query: Callable[[Connection], T]) -> T:
        if self._closed:
            raise StorageUnavailable("the journal is closed", fix="open it again")

        def attempt() -> T:
            with self._storage.read.connect() as connection:
                return query(connection)

        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._readers, self._storage.retrying, attempt)
        except DataError as error:
            raise InvalidInput("a value cannot be looked up in the journal", fix="use plain text") from error
