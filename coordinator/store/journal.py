"""The journal: what was acknowledged is in it, and it can be read back after any crash.

Writes from many callers share one flush (see `writer`), reads run beside them. All methods may be
called from any event loop. Every write may raise StorageUnavailable, after which it can be repeated.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError

from coordinator.store import calls, reads, runs
from coordinator.store.engine import READERS, Storage, open_storage
from coordinator.store.records import Change, NewRun, RunRecord, RunStatus, StepCall, StepRecord
from coordinator.store.writer import GroupWriter
from manta.clock import Clock
from manta.errors import InvalidInput, StorageUnavailable
from manta.events import Event
from manta.ids import RunId, Tenant
from manta.messages import CallIntent, CallOutcome, RecordedCall, Usage

T = TypeVar("T")


class Journal:
    """Get one from `Journal.open`."""

    def __init__(self, storage: Storage, clock: Clock, readers: ThreadPoolExecutor) -> None:
        self._storage = storage
        self._clock = clock
        self._readers = readers
        self._writer = GroupWriter(storage)
        self._closed = False

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

    async def create_run(self, new: NewRun) -> tuple[RunRecord, bool]:
        """Writes a pending run; False with the run that the same request (key or id, and body) made before.

        Raises:
            IdempotencyConflict: the tenant used the idempotency key or the id with another body.
            InvalidInput: a name or a value cannot be kept.
        """
        return await self._write(lambda c: runs.create_run(c, new, self._clock.now()))

    async def claim(self, run_id: RunId, owner: str) -> RunRecord:
        """Makes `owner` the run's only writer, by a new epoch; calls begun before it become unknown.

        Raises:
            NotFound: no such run.
            Conflict: code `run_terminal`, the run is finished.
        """
        return await self._write(lambda c: runs.claim(c, run_id, owner, self._clock.now()))

    async def commit(self, run_id: RunId, epoch: int, changes: Sequence[Change]) -> list[Event]:
        """All changes at once or none; returns the events among them with their numbers, gapless per run.

        A step's row keeps its `agent` and `input` when a later change leaves them out.

        Raises:
            StaleEpoch: another epoch has the run, or another attempt the step.
            Conflict: code `run_terminal` (the run is finished) or `step_done` (its output is written).
        """
        return await self._write(lambda c: runs.commit(c, run_id, epoch, changes, self._clock.now()))

    async def request_cancel(self, tenant: Tenant, run_id: RunId) -> RunRecord:
        """Sets the durable flag; setting it twice is harmless.

        Raises:
            NotFound: the tenant has no such run.
            Conflict: code `run_terminal`, the run is finished.
        """
        return await self._write(lambda c: runs.request_cancel(c, tenant, run_id, self._clock.now()))

    async def begin_call(self, intent: CallIntent) -> RecordedCall | None:
        """Journals an intent; a call that is done is returned instead, to be replayed.

        A passing failure (an error of a retryable class) of an earlier attempt is not replayed but begun
        again, unless the call must not be repeated.

        Raises:
            StaleEpoch: the run's epoch or the step's attempt is another one.
            OutcomeUnknown: the call must not be repeated and an earlier try has no outcome.
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
        return await self._read(lambda c: reads.get_run(c, tenant, run_id))

    async def run_state(self, tenant: Tenant, run_id: RunId) -> tuple[str, int]:
        """Status and last event number: what a watcher asks again and again. Raises NotFound."""
        return await self._read(lambda c: reads.run_state(c, tenant, run_id))

    async def list_runs(
        self,
        tenant: Tenant,
        *,
        status: RunStatus | Sequence[RunStatus] | None = None,
        graph: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        limit: int = 10,
        offset: int = 0,
    ) -> list[RunRecord]:
        """The tenant's runs, newest first; `metadata` entries must all be there with exactly these values."""
        return await self._read(lambda c: reads.list_runs(c, tenant, status, graph, metadata, limit, offset))

    async def unfinished(self) -> list[RunRecord]:
        """The pending and running runs of all tenants, oldest first."""
        return await self._read(reads.unfinished)

    async def events(self, run_id: RunId, after: int = 0, limit: int = 1000) -> list[Event]:
        """The run's events with `seq > after`, in order; none for a run that does not exist."""
        return await self._read(lambda c: reads.read_events(c, run_id, after, limit))

    async def steps(self, run_id: RunId) -> list[StepRecord]:
        """The run's step executions, in the order in which they first appeared."""
        return await self._read(lambda c: reads.read_steps(c, run_id))

    async def calls(self, run_id: RunId) -> list[StepCall]:
        """The run's calls, in the order in which they were first begun."""
        return await self._read(lambda c: reads.read_calls(c, run_id))

    async def usage(self, run_id: RunId) -> Usage:
        """What the run's finished calls have used, in sum."""
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
