"""How threads are read: their status from their runs, the messages of a state from the branches it lies on."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, case, exists, select

from coordinator.store.library_records import ThreadRecord, ThreadState
from coordinator.store.library_schema import (
    thread_branches,
    thread_labels,
    thread_messages,
    thread_states,
    threads,
)
from coordinator.store.room import plain_id
from coordinator.store.rows import label
from coordinator.store.schema import runs
from manta.errors import NotFound

Tip: TypeAlias = tuple[str, int | None]
"""A thread and the number of a message in it, the last of a conversation; None is an empty one."""
Span: TypeAlias = tuple[int, int]
"""Messages from one number to another, both of them included."""

_STATUS_OF_RUN = {
    "running": "busy",
    "pending": "busy",
    "waiting": "interrupted",
    "interrupted": "interrupted",
    "error": "error",
    "timeout": "error",
}


def thread_not_found(thread: str) -> NotFound:
    return NotFound(f"there is no thread {thread!r}", fix="create it, or search for the right one")


def plain_thread(thread: str) -> str:
    """Raises NotFound for what can be no thread's id."""
    return plain_id(thread, thread_not_found)


def get_thread(connection: Connection, tenant: str, thread: str) -> ThreadRecord:
    found = _records(connection, tenant, _ONE_THREAD, {"of": tenant, "thread": plain_thread(thread)})
    if not found:
        raise thread_not_found(thread)
    return found[0]


def search_threads(
    connection: Connection,
    tenant: str,
    metadata: Mapping[str, Any],
    values: Mapping[str, Any],
    status: str | None,
    limit: int,
    offset: int,
) -> list[ThreadRecord]:
    query = _threads()
    for part, wanted in (("metadata", metadata), ("values", values)):
        for key, value in wanted.items():
            query = query.where(_has_label(part, label(key, value)))
    if status is not None:
        query = query.where(_status() == status)
    page = query.order_by(threads.c.number.desc()).limit(limit).offset(offset)
    return _records(connection, tenant, page, {"of": tenant})


def read_states(
    connection: Connection, tenant: str, thread: str, limit: int, before: int | None = None
) -> list[ThreadState]:
    """The newest states first, those older than number `before`."""
    query = _STATES if before is None else _STATES.where(thread_states.c.number < before)
    rows = connection.execute(query.limit(limit), {"of": tenant, "thread": thread}).all()
    told = conversations(connection, tenant, [(thread, row.last_message) for row in rows])
    return [
        ThreadState(
            thread=row.thread_id,
            checkpoint=row.checkpoint,
            base=row.base_checkpoint,
            run=row.run_id,
            values=row.content,
            messages=told[thread, row.last_message],
            created_at=row.created_at,
        )
        for row in rows
    ]


def conversations(
    connection: Connection, tenant: str, tips: Iterable[Tip]
) -> dict[Tip, tuple[dict[str, Any], ...]]:
    """For each tip the messages up to it. What several have in common is read once."""
    branches = _branches(connection, tenant, {thread for thread, tip in tips if tip})
    ways = {tip: spans(tip[1], branches.get(tip[0], ())) for tip in tips}
    ends: dict[tuple[str, int], int] = {}
    for (thread, _), way in ways.items():
        for first, last in way:
            ends[thread, first] = max(last, ends.get((thread, first), 0))
    # A branch is read from its beginning as far as any of the conversations needs it.
    read = {
        (thread, first): [row.message for row in messages_of(connection, tenant, thread, (first, last))]
        for (thread, first), last in ends.items()
    }
    return {
        tip: tuple(m for first, last in way for m in read[tip[0], first][: last - first + 1])
        for tip, way in ways.items()
    }


def conversation(connection: Connection, tenant: str, thread: str, tip: int | None) -> list[Row[Any]]:
    """The rows (`number`, `message`) of one conversation, in order."""
    branches = _branches(connection, tenant, {thread}).get(thread, ())
    return [row for span in spans(tip, branches) for row in messages_of(connection, tenant, thread, span)]


def spans(tip: int | None, branches: Sequence[tuple[int, int | None]]) -> list[Span]:
    """The way to message `tip`, from the conversation's beginning: from branch to branch.

    Args:
        branches: each one's first message and the one before it, by the first.
    """
    firsts = [first for first, _ in branches]
    way: list[Span] = []
    while tip:
        place = bisect_right(firsts, tip) - 1
        first, after = branches[place] if place >= 0 else (1, None)
        way.append((first, tip))
        tip = after
    return way[::-1]


def messages_of(connection: Connection, tenant: str, thread: str, span: Span) -> Sequence[Row[Any]]:
    first, last = span
    return connection.execute(_SPAN, {"of": tenant, "thread": thread, "first": first, "last": last}).all()


def _branches(
    connection: Connection, tenant: str, of: Iterable[str]
) -> dict[str, list[tuple[int, int | None]]]:
    """Of those threads that have any."""
    found: dict[str, list[tuple[int, int | None]]] = {}
    for row in connection.execute(_BRANCHES, {"of": tenant, "threads": list(of)}):
        found.setdefault(row.thread_id, []).append((row.first, row.after))
    return found


def _status() -> ColumnElement[str]:
    """The status of the run that matters: the one at work, else one that waits, else a queued one, else the latest."""
    first = case({"running": 0, "waiting": 1, "pending": 2}, value=runs.c.status, else_=3)
    deciding = (
        select(runs.c.status)
        .where(runs.c.tenant == threads.c.tenant, runs.c.thread == threads.c.id)
        .order_by(first, runs.c.number.desc())
        .limit(1)
        .correlate(threads)
        .scalar_subquery()
    )
    return case(_STATUS_OF_RUN, value=deciding, else_="idle")


def _threads() -> Select[Any]:
    current = (
        (thread_states.c.tenant == threads.c.tenant)
        & (thread_states.c.thread_id == threads.c.id)
        & (thread_states.c.number == threads.c.last_state)
    )
    state = (thread_states.c.content, thread_states.c.checkpoint, thread_states.c.last_message)
    # Both tables have a column of this name.
    own = [column for column in threads.c if column.name != "last_message"]
    return (
        select(*own, *state, _status().label("status"))
        .select_from(threads.outerjoin(thread_states, current))
        .where(threads.c.tenant == bindparam("of"))
    )


def _states() -> Select[Any]:
    base = thread_states.alias("base")
    same = (base.c.tenant == thread_states.c.tenant) & (base.c.thread_id == thread_states.c.thread_id)
    own = (thread_states.c.tenant == bindparam("of"), thread_states.c.thread_id == bindparam("thread"))
    return (
        select(thread_states, base.c.checkpoint.label("base_checkpoint"))
        .outerjoin(base, same & (base.c.number == thread_states.c.base))
        .where(*own)
        .order_by(thread_states.c.number.desc())
    )


def _has_label(part: str, wanted: str) -> ColumnElement[bool]:
    return exists().where(
        thread_labels.c.tenant == threads.c.tenant,
        thread_labels.c.thread_id == threads.c.id,
        thread_labels.c.part == part,
        thread_labels.c.label == wanted,
    )


def _records(
    connection: Connection, tenant: str, query: Select[Any], named: Mapping[str, Any]
) -> list[ThreadRecord]:
    rows = connection.execute(query, named).all()
    told = conversations(connection, tenant, [(row.id, row.last_message) for row in rows])
    return [
        ThreadRecord(
            id=row.id,
            tenant=row.tenant,
            status=row.status,
            metadata=row.metadata,
            values=row.content or {},
            messages=told[row.id, row.last_message],
            checkpoint=row.checkpoint,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )
        for row in rows
    ]


# Built once: building a statement takes longer than running it.
_ONE_THREAD = _threads().where(threads.c.id == bindparam("thread"))
_STATES = _states()
_SPAN = (
    select(thread_messages.c.number, thread_messages.c.message)
    .where(
        thread_messages.c.tenant == bindparam("of"),
        thread_messages.c.thread_id == bindparam("thread"),
        thread_messages.c.number.between(bindparam("first"), bindparam("last")),
    )
    .order_by(thread_messages.c.number)
)
_BRANCHES = (
    select(thread_branches.c.thread_id, thread_branches.c.first, thread_branches.c.after)
    .where(
        thread_branches.c.tenant == bindparam("of"),
        thread_branches.c.thread_id.in_(bindparam("threads", expanding=True)),
    )
    .order_by(thread_branches.c.first)
)
