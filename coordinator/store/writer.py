"""One thread that writes, so that calls made at the same time share one flush to disk (group commit).

Each call runs in its own savepoint of the group's transaction: what one of them raises is its own
affair, and no call returns before the transaction that holds it is durable.
"""

import asyncio
import contextlib
import queue
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Connection, delete
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DataError, DBAPIError, StatementError

from coordinator.store.engine import Storage, is_storage_failure
from coordinator.store.schema import writers
from manta.errors import InvalidInput, MantaError, StorageUnavailable

T = TypeVar("T")

MAX_GROUP = 256
_CLOSED = "the journal is closed"


class _Job:
    """An operation and the future its caller waits on."""

    __slots__ = ("future", "operation")

    def __init__(self, operation: Callable[[Connection], Any]) -> None:
        self.operation = operation
        self.future: Future[Any] = Future()


_Outcome: TypeAlias = "tuple[Any, None] | tuple[None, Exception]"


class _Group:
    """Jobs of one transaction. `outcomes` are those of the latest try that got as far as its COMMIT."""

    __slots__ = ("jobs", "number", "outcomes")

    def __init__(self, jobs: Sequence[_Job], number: int) -> None:
        self.jobs = jobs
        self.number = number
        self.outcomes: list[_Outcome] = []


class GroupWriter:
    """Runs operations in the order they were given. May be called from any thread and any event loop."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._id = uuid.uuid4().hex
        self._groups = 0
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
        job = _Job(operation)
        with self._gate:
            if self._closed:
                raise StorageUnavailable(_CLOSED, fix="open it again")
            self._jobs.put(job)
        result: T = await asyncio.wrap_future(job.future)
        return result

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
            group = [job for job in group if job.future.set_running_or_notify_cancel()]
            if group:
                self._write(group)

    def _next_group(self) -> tuple[list[_Job], bool]:
        group: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            group.append(job)
            if len(group) == MAX_GROUP or self._jobs.empty():
                return group, True
            job = self._jobs.get()
        return group, False

    def _write(self, jobs: Sequence[_Job]) -> None:
        self._groups += 1
        group = _Group(jobs, self._groups)
        try:
            outcomes = self._storage.retrying(lambda: self._transact(group))
        except Exception as failure:
            outcomes = [(None, failure)] * len(jobs)
        for job, (value, error) in zip(jobs, outcomes, strict=True):
            if error is None:
                job.future.set_result(value)
            else:
                job.future.set_exception(error)

    def _transact(self, group: _Group) -> list[_Outcome]:
        with self._storage.write.connect() as connection:
            try:
                transaction = connection.begin()
                if self._leaves_stamps and not self._stamp(connection, group.number):
                    # The COMMIT of an earlier try was carried out, only its answer was lost.
                    return group.outcomes
                group.outcomes = [_run_in_savepoint(connection, job.operation) for job in group.jobs]
                transaction.commit()
            except DBAPIError as error:
                # A full disk may already have rolled back by itself: start over on a fresh connection.
                connection.invalidate(error)
                raise
            return group.outcomes

    def _stamp(self, connection: Connection, number: int) -> bool:
        """Whether this group is new. An earlier try that the server still works on is waited for by the row's lock.

        Asking the server for a transaction's fate would not do: after a crash it gives out unflushed
        transaction numbers again.
        """
        stamp = insert(writers).values(id=self._id, last_group=number)
        newer = writers.c.last_group < stamp.excluded.last_group
        upsert = stamp.on_conflict_do_update(
            index_elements=[writers.c.id], set_={"last_group": stamp.excluded.last_group}, where=newer
        )
        return connection.execute(upsert.returning(writers.c.last_group)).first() is not None

    def _remove_stamp(self) -> None:
        with self._storage.write.begin() as connection:
            connection.execute(delete(writers).where(writers.c.id == self._id))


def _run_in_savepoint(connection: Connection, operation: Callable[[Connection], Any]) -> _Outcome:
    savepoint = connection.begin_nested()
    try:
        value = operation(connection)
        savepoint.commit()
    except Exception as error:
        if is_storage_failure(error):
            raise
        savepoint.rollback()
        return None, _explained(error)
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
