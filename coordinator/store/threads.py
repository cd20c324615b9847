"""Threads: conversations over runs. One state for each run that ended well and each patch, every message once.

A state names its last message, and messages follow each other by number: a thread grows with what is said in
it, and a branch from an older state shares the beginning.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import Connection, Row, bindparam, delete, insert, literal, select, update

from coordinator.store.bulk import Bulk, inserted
from coordinator.store.engine import dumps
from coordinator.store.library_records import ThreadRecord, ThreadState, ThreadStatus
from coordinator.store.library_schema import (
    thread_branches,
    thread_labels,
    thread_messages,
    thread_states,
    threads,
)
from coordinator.store.records import TERMINAL_STATUSES, ThreadChange
from coordinator.store.requests import seen_by_thread
from coordinator.store.room import Room, new_id, require_object, require_page
from coordinator.store.schema import runs
from coordinator.store.thread_reads import (
    get_thread,
    plain_thread,
    read_states,
    search_threads,
    thread_not_found,
)
from coordinator.store.thread_writes import (
    add_state,
    current_state,
    forget_labels,
    lock_thread_row,
    named_state,
    write_labels,
)
from manta.errors import Conflict, InvalidInput
from manta.ids import Tenant, ThreadId

_OF_A_THREAD = (thread_labels, thread_messages, thread_branches, thread_states)
_WRITE_THREADS = Bulk(lambda kind: inserted(kind, threads, ["number"]).on_conflict_do_nothing())  # type: ignore[attr-defined]
_HOLD = (
    select(threads.c.number)
    .where(threads.c.tenant == bindparam("of"), threads.c.id == bindparam("thread"))
    .with_for_update(read=True, key_share=True)
)


class Threads(Room):
    """Every method raises NotFound for a thread that the tenant does not have."""

    async def create(
        self,
        tenant: Tenant,
        thread: ThreadId | None = None,
        metadata: Mapping[str, Any] | None = None,
        if_exists: Literal["raise", "do_nothing"] = "raise",
        key: str | None = None,
    ) -> ThreadRecord:
        """An empty thread, or with `do_nothing` the one that is there; also the one that this `key` has made.

        Raises:
            Conflict: code `thread_exists`.
            InvalidInput: the id is not a UUID, or the metadata no JSON object.
            IdempotencyConflict: the key has made it with other metadata.
        """
        wanted = new_id() if thread is None else _uuid(thread)
        told = require_object("metadata", {} if metadata is None else metadata)
        now = self._clock.now()
        return await self._write(lambda c: _create(c, tenant, wanted, told, if_exists, key, now))

    async def get(self, tenant: Tenant, thread: ThreadId) -> ThreadRecord:
        return await self._read(lambda c: get_thread(c, tenant, thread))

    async def search(
        self,
        tenant: Tenant,
        metadata: Mapping[str, Any] | None = None,
        values: Mapping[str, Any] | None = None,
        status: ThreadStatus | None = None,
        limit: int = 10,
        offset: int = 0,
    ) -> list[ThreadRecord]:
        """The newest first; entries of `metadata` and `values` must all be there with exactly these values."""
        require_page(limit, offset)
        return await self._read(
            lambda c: search_threads(c, tenant, metadata or {}, values or {}, status, limit, offset)
        )

    async def patch(
        self,
        tenant: Tenant,
        thread: ThreadId,
        metadata: Mapping[str, Any] | None = None,
        values: Mapping[str, Any] | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        checkpoint: str | None = None,
        key: str | None = None,
    ) -> ThreadRecord:
        """Merges metadata; values and messages make a new state, from the current one or from `checkpoint`.

        Values are merged by name. A message whose id the state has already takes that one's place, others
        are added. A checkpoint with nothing else goes back to it. A `key` that came before changes nothing.

        Raises:
            NotFound: also for a checkpoint that the thread does not have.
            InvalidInput: a message without role and content, or something that is no JSON object.
            IdempotencyConflict: the key came with another change.
        """
        told = [_checked(message) for message in messages or ()]
        merged = require_object("metadata", {} if metadata is None else metadata)
        changed = require_object("values", {} if values is None else values)
        makes_state = values is not None or messages is not None or (checkpoint and metadata is None)
        asked, now = [merged, changed, told, checkpoint, bool(makes_state)], self._clock.now()

        def operation(connection: Connection) -> ThreadRecord:
            row = lock_thread_row(connection, tenant, thread)
            if seen_by_thread(connection, tenant, row.id, "patch", key, asked):
                return get_thread(connection, tenant, row.id)
            if merged:
                _set_metadata(connection, row, {**row.metadata, **merged}, now)
            if makes_state:
                base = (
                    current_state(connection, row)
                    if checkpoint is None
                    else named_state(connection, row, checkpoint)
                )
                content = {**(base.content if base is not None else {}), **changed}
                add_state(connection, row, base, content, told, None, now)
            return get_thread(connection, tenant, thread)

        return await self._write(operation)

    async def delete(self, tenant: Tenant, thread: ThreadId) -> None:
        """Its runs stay, without a thread.

        Raises:
            Conflict: code `thread_busy`, a run of it is not finished.
        """
        await self._write(lambda c: _delete(c, tenant, thread))

    async def copy(self, tenant: Tenant, thread: ThreadId, copied: ThreadId | None = None) -> ThreadRecord:
        """A new thread with the same metadata, messages and states, and none of the runs.

        `copied`: its id, made by the caller for this one copy; if it is there already it is given as it is.
        """
        new, now = new_id() if copied is None else _uuid(copied), self._clock.now()
        return await self._write(lambda c: _copy(c, tenant, thread, new, now))

    async def history(
        self, tenant: Tenant, thread: ThreadId, limit: int = 10, before: str | None = None
    ) -> list[ThreadState]:
        """Its states, the newest first; only those older than the checkpoint `before`."""
        require_page(limit)

        def query(connection: Connection) -> list[ThreadState]:
            row = _find(connection, tenant, thread)
            older = None if before is None else named_state(connection, row, before).number
            return read_states(connection, tenant, thread, limit, older)

        return await self._read(query)

    async def state(self, tenant: Tenant, thread: ThreadId) -> ThreadState | None:
        """The current state; None before the first one."""
        states = await self.history(tenant, thread, 1)
        return states[0] if states else None


def require(connection: Connection, tenant: str, thread: str) -> None:
    """Held until the transaction ends, so that a run and the deletion of its thread do not cross. Raises NotFound."""
    if connection.execute(_HOLD, {"of": tenant, "thread": plain_thread(thread)}).first() is None:
        raise thread_not_found(thread)


def apply(connection: Connection, tenant: str, run_id: str, change: ThreadChange, now: float) -> None:
    """Adds what a run left, in the transaction that ends it: its values become the thread's.

    Raises:
        NotFound: there is no such thread; one with an unfinished run cannot be deleted.
        InvalidInput: a value or a message is not plain JSON.
    """
    row = lock_thread_row(connection, tenant, change.thread)
    base = current_state(connection, row)
    add_state(connection, row, base, change.values, change.messages, run_id, now)


def _create(
    connection: Connection,
    tenant: str,
    thread: str,
    metadata: dict[str, Any],
    if_exists: str,
    key: str | None,
    now: float,
) -> ThreadRecord:
    row = {"tenant": tenant, "id": thread, "metadata": dumps(metadata), "last_state": 0, "last_message": 0}
    new = _WRITE_THREADS.run(connection, [{**row, "created_at": now, "updated_at": now}])
    seen = if_exists != "do_nothing" and seen_by_thread(connection, tenant, thread, "create", key, metadata)
    if new:
        write_labels(connection, tenant, thread, "metadata", metadata)
        return ThreadRecord(ThreadId(thread), Tenant(tenant), "idle", metadata, {}, (), None, now, now)
    if if_exists != "do_nothing" and not seen:
        raise Conflict(
            f"thread {thread} is there already",
            fix="leave the id out, or say if_exists: do_nothing",
            code="thread_exists",
        )
    return get_thread(connection, tenant, thread)


def _delete(connection: Connection, tenant: str, thread: str) -> None:
    row = _find(connection, tenant, thread, lock=True)
    its_runs = (runs.c.tenant == tenant, runs.c.thread == row.id)
    unfinished = select(runs.c.id).where(*its_runs, runs.c.status.not_in(TERMINAL_STATUSES)).limit(1)
    run = connection.execute(unfinished).scalar_one_or_none()
    if run is not None:
        raise Conflict(
            f"run {run} of thread {thread} is not finished", fix="cancel it first", code="thread_busy"
        )
    # Another thread of this id would otherwise find runs that are not its own.
    connection.execute(update(runs).where(*its_runs).values(thread=None))
    for table in _OF_A_THREAD:
        connection.execute(delete(table).where(table.c.tenant == tenant, table.c.thread_id == row.id))
    connection.execute(delete(threads).where(threads.c.number == row.number))


def _copy(connection: Connection, tenant: str, thread: str, copied: str, now: float) -> ThreadRecord:
    # Before its origin, which may be gone since.
    if connection.execute(_HOLD, {"of": tenant, "thread": copied}).first() is not None:
        return get_thread(connection, tenant, copied)
    row = lock_thread_row(connection, tenant, thread)
    numbers = {"last_state": row.last_state, "last_message": row.last_message}
    new = {"tenant": tenant, "id": copied, "metadata": dumps(row.metadata), **numbers}
    if not _WRITE_THREADS.run(connection, [{**new, "created_at": now, "updated_at": now}]):
        # Two coordinators were asked for the same copy.
        return get_thread(connection, tenant, copied)
    for table in _OF_A_THREAD:
        columns = [literal(copied) if column.name == "thread_id" else column for column in table.c]
        same = select(*columns).where(table.c.tenant == tenant, table.c.thread_id == row.id)
        connection.execute(insert(table).from_select([column.name for column in table.c], same))
    return get_thread(connection, tenant, copied)


def _find(connection: Connection, tenant: str, thread: str, *, lock: bool = False) -> Row[Any]:
    query = select(threads).where(threads.c.tenant == tenant, threads.c.id == plain_thread(thread))
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise thread_not_found(thread)
    return row


def _set_metadata(connection: Connection, thread: Row[Any], metadata: dict[str, Any], now: float) -> None:
    connection.execute(
        update(threads).where(threads.c.number == thread.number).values(metadata=metadata, updated_at=now)
    )
    forget_labels(connection, thread.tenant, thread.id, "metadata")
    write_labels(connection, thread.tenant, thread.id, "metadata", metadata)


def _checked(message: Any) -> Mapping[str, Any]:
    if (
        isinstance(message, Mapping)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str | list)
    ):
        return message
    raise InvalidInput(
        "a message needs a role and a content of text or a list of blocks",
        fix='send {"role": "user", "content": "..."}',
    )


def _uuid(thread: str) -> str:
    try:
        return str(uuid.UUID(thread))
    except (ValueError, AttributeError, TypeError):
        raise InvalidInput(
            f"a thread's id must be a UUID, not {str(thread)[:60]!r}", fix="leave it out to get one"
        ) from None
