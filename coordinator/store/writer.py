"""One thread that writes, so that calls made at the same time share one flush to disk (group commit).

Each call runs in its own savepoint of the group's transaction: what one of them raises is its own
affair, and no call returns before the transaction that holds it is durable. Calls of a kind that is cheaper
together are carried out together; if one of them does not fit, the transaction begins anew and they run one
by one like the others.
"""

import asyncio
import contextlib
import queue
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from sqlalchemy import Connection, delete, extract, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DataError, DBAPIError, SQLAlchemyError, StatementError

from coordinator.store.engine import Storage, is_storage_failure
from coordinator.store.schema import writers
from manta.errors import InvalidInput, MantaError, StorageUnavailable
from manta.faults import reach
from manta.telemetry import get_logger

T = TypeVar("T")
Item = TypeVar("Item")
Item_contra = TypeVar("Item_contra", contravariant=True)
T_co = TypeVar("T_co", covariant=True)

MAX_GROUP = 256
_CLOSED = "the journal is closed"

logger = get_logger("coordinator")


class Kind(Protocol[Item_contra, T_co]):
    """Operations that can be carried out together."""

    def alone(self, connection: Connection, item: Item_contra) -> T_co: ...

    def together(self, connection: Connection, items: Sequence[Item_contra]) -> Sequence[T_co] | None:
        """What `alone` would return for each; None, or an error, if they have to be done one by one."""
        ...


class _Job(Generic[T]):
    """An operation and the future its caller waits on. One of a `kind` has an item of it."""

    __slots__ = ("future", "item", "kind", "loop", "operation")

    def __init__(
        self, operation: Callable[[Connection], T], kind: Kind[Any, T] | None = None, item: Any = None
    ) -> None:
        self.operation = operation
        self.kind = kind
        self.item = item
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self.loop.create_future()


_Outcome: TypeAlias = "tuple[Any, None] | tuple[None, Exception]"
_Outcomes: TypeAlias = "dict[_Job[Any], _Outcome]"


class _Group:
    """Jobs of one transaction. `outcomes` are those of the latest try that got as far as its COMMIT."""

    __slots__ = ("apart", "jobs", "number", "outcomes")

    def __init__(self, jobs: Sequence[_Job[Any]], number: int) -> None:
        self.jobs = jobs
        self.number = number
        self.apart: set[Kind[Any, Any]] = set()
        """Kinds of which one does not fit: they are carried out one by one."""
        self.outcomes: _Outcomes = {}


class _DoNotFit(Exception):
    """What was carried out together must not be kept."""


class GroupWriter:
    """Runs operations of one kind, or of none, in the order they were given. For any thread and event loop."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._id = uuid.uuid4().hex
        self._groups = 0
        self.flushes = 0
        """COMMITs so far."""
        # A COMMIT that fails on SQLite wrote nothing; over a connection nobody knows.
        self._leaves_stamps = storage.write.dialect.name == "postgresql"
        self._closed = False
        self._gate = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="journal-writer", daemon=True)
        self._thread.start()

    async def run(self, operation: Callable[[Connection], T]) -> T:
        """What `operation` returns, once it is durable. It may be run more than once; only one run counts.

        Raises:
            StorageUnavailable: it was not written, or the connection was lost for so long that nobody knows.
            InvalidInput: a value is not plain JSON or does not fit its column.
        """
        return await self._done(_Job(operation))

    async def run_one_of(self, kind: Kind[Item, T], item: Item) -> T:
        """The same for an operation that others may be carried out together with."""
        return await self._done(_Job(lambda connection: kind.alone(connection, item), kind, item))

    async def _done(self, job: _Job[T]) -> T:
        with self._gate:
            if self._closed:
                raise StorageUnavailable(_CLOSED, fix="open it again")
            self._jobs.put(job)
        return await job.future

    def close(self) -> None:
        """Blocks until what was given before is written."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()
        if self._leaves_stamps:
            # One that is left behind takes a few bytes and harms nobody.
            with contextlib.suppress(StorageUnavailable):
                self._storage.retrying(self._remove_stamp)

    def _work(self) -> None:
        open_ = True
        while open_:
            group, open_ = self._next_group()
            # A caller that was cancelled while it waited in the queue gets nothing written.
            group = [job for job in group if not job.future.cancelled()]
            if group:
                self._write(group)

    def _next_group(self) -> tuple[list[_Job[Any]], bool]:
        group: list[_Job[Any]] = []
        job = self._jobs.get()
        while job is not None:
            group.append(job)
            if len(group) == MAX_GROUP or self._jobs.empty():
                return group, True
            job = self._jobs.get()
        return group, False

    def _write(self, jobs: Sequence[_Job[Any]]) -> None:
        self._groups += 1
        group = _Group(jobs, self._groups)
        try:
            outcomes = self._storage.retrying(lambda: self._transact(group))
        except Exception as failure:
            outcomes = {job: (None, failure) for job in jobs}
        _hand_over(outcomes)

    def _transact(self, group: _Group) -> _Outcomes:
        with self._storage.write.connect() as connection:
            while True:
                try:
                    return self._try(connection, group)
                except _DoNotFit:
                    # Once for each kind at most.
                    connection.rollback()
                except DBAPIError as error:
                    # A full disk may already have rolled back by itself: start over on a fresh connection.
                    connection.invalidate(error)
                    raise

    def _try(self, connection: Connection, group: _Group) -> _Outcomes:
        connection.begin()
        if self._leaves_stamps and not self._stamp(connection, group.number):
            # The COMMIT of an earlier try was carried out, only its answer was lost.
            return group.outcomes
        group.outcomes = _carry_out(connection, group)
        reach("journal.group_written")
        connection.commit()
        reach("journal.group_committed")
        self.flushes += 1
        return group.outcomes

    def _stamp(self, connection: Connection, number: int) -> bool:
        """Whether this group is new. An earlier try that the server still works on is waited for by the row's lock.

        Asking the server for a transaction's fate would not do: after a crash it gives out unflushed
        transaction numbers again.
        """
        stamp = insert(writers).values(id=self._id, last_group=number, seen_at=extract("epoch", func.now()))
        newer = writers.c.last_group < stamp.excluded.last_group
        upsert = stamp.on_conflict_do_update(
            index_elements=[writers.c.id],
            set_={"last_group": stamp.excluded.last_group, "seen_at": stamp.excluded.seen_at},
            where=newer,
        )
        return connection.execute(upsert.returning(writers.c.last_group)).first() is not None

    def _remove_stamp(self) -> None:
        with self._storage.write.begin() as connection:
            connection.execute(delete(writers).where(writers.c.id == self._id))


def _hand_over(outcomes: _Outcomes) -> None:
    """Each event loop is woken once for all the callers that wait in it."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], _Outcome]]] = {}
    for job, outcome in outcomes.items():
        by_loop.setdefault(job.loop, []).append((job.future, outcome))
    for loop, settled in by_loop.items():
        # In a loop that is closed nobody waits any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, settled)


def _settle(settled: Sequence[tuple[asyncio.Future[Any], _Outcome]]) -> None:
    for future, (value, error) in settled:
        if future.cancelled():
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)


def _carry_out(connection: Connection, group: _Group) -> _Outcomes:
    """Raises _DoNotFit with one more kind in `group.apart`."""
    outcomes: _Outcomes = {}
    for kind in dict.fromkeys(job.kind for job in group.jobs):
        if kind is None or kind in group.apart:
            continue
        alike = [job for job in group.jobs if job.kind is kind]
        values = _together(connection, kind, alike)
        if values is None:
            group.apart.add(kind)
            raise _DoNotFit
        outcomes.update((job, (value, None)) for job, value in zip(alike, values, strict=True))
    for job in group.jobs:
        if job not in outcomes:
            outcomes[job] = _alone(connection, job.operation)
    return outcomes


def _together(
    connection: Connection, kind: Kind[Any, Any], jobs: Sequence[_Job[Any]]
) -> Sequence[Any] | None:
    try:
        return kind.together(connection, [job.item for job in jobs])
    except Exception as error:
        if is_storage_failure(error):
            raise
        # Whose error it is shows when each is tried by itself.
        if not isinstance(error, MantaError | SQLAlchemyError | OverflowError):
            logger.warning("writing together failed: %s: %s", type(error).__name__, error)
        return None


def _alone(connection: Connection, operation: Callable[[Connection], Any]) -> _Outcome:
    # As plain text: SQLAlchemy would put together its own savepoints anew each time.
    connection.exec_driver_sql("SAVEPOINT one")
    try:
        value = operation(connection)
    except Exception as error:
        if is_storage_failure(error):
            raise
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT one")
        connection.exec_driver_sql("RELEASE SAVEPOINT one")
        return None, _explained(error)
    connection.exec_driver_sql("RELEASE SAVEPOINT one")
    return value, None


def _explained(error: Exception) -> Exception:
    """Errors of a value as InvalidInput; the rest as they are."""
    wrapped = error.orig if isinstance(error, StatementError) else None
    if isinstance(wrapped, MantaError):
        return wrapped
    if isinstance(error, DataError | OverflowError) or isinstance(wrapped, ValueError):
        explained = InvalidInput(
            f"a value cannot be journaled: {str(wrapped or error).splitlines()[0]}",
            fix="use plain text and numbers of ordinary size",
        )
        explained.__cause__ = error
        return explained
    return error
