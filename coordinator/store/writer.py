"""One thread that writes, so that calls made at the same time share one flush to disk (group commit).

Each call runs in its own savepoint of the group's transaction: what one of them raises is its own
affair, and no call returns before the transaction that holds it is durable.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.exc import DataError, DBAPIError, StatementError

from coordinator.store.engine import Storage, is_storage_failure
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


class GroupWriter:
    """Runs operations in the order they were given. May be called from any thread and any event loop."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
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

    def _write(self, group: Sequence[_Job]) -> None:
        try:
            outcomes = self._storage.retrying(lambda: self._transact(group))
        except Exception as failure:
            outcomes = [(None, failure)] * len(group)
        for job, (value, error) in zip(group, outcomes, strict=True):
            if error is None:
                job.future.set_result(value)
            else:
                job.future.set_exception(error)

    def _transact(self, group: Sequence[_Job]) -> list[_Outcome]:
        with self._storage.write.connect() as connection:
            try:
                transaction = connection.begin()
                outcomes = [_run_in_savepoint(connection, job.operation) for job in group]
                mark = _transaction_mark(connection)
            except DBAPIError as error:
                # A full disk may already have rolled back by itself: start over on a fresh connection.
                connection.invalidate(error)
                raise
            try:
                transaction.commit()
            except DBAPIError as error:
                connection.invalidate(error)
                if mark is None or not self._was_committed(mark):
                    raise
            return outcomes

    def _was_committed(self, mark: str) -> bool:
        """Whether a transaction whose COMMIT got no answer is in the database all the same."""

        def ask() -> bool:
            with self._storage.write.connect() as connection:
                status = connection.execute(
                    text("SELECT pg_xact_status(CAST(:mark AS xid8))"), {"mark": mark}
                )
                return _decided(str(status.scalar_one()))

        return self._storage.retrying(ask)


class _StillOpen(DBAPIError):
    """The server has not noticed yet that its client of a moment ago is gone."""

    def __init__(self) -> None:
        super().__init__(None, None, Exception("an earlier transaction is still open"))


def _decided(status: str) -> bool:
    if status == "in progress":
        raise _StillOpen
    return status == "committed"


def _transaction_mark(connection: Connection) -> str | None:
    """The transaction's name on the server; SQLite needs none, a failed COMMIT there wrote nothing."""
    if connection.dialect.name != "postgresql":
        return None
    return str(connection.execute(text("SELECT CAST(pg_current_xact_id() AS text)")).scalar_one())


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
