"""How a thread gets a new state: in few statements, as some of them are in the commit that ends a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, select, update

from coordinator.store.bulk import Bulk, inserted, text_of
from coordinator.store.library_schema import (
    thread_branches,
    thread_labels,
    thread_messages,
    thread_states,
    threads,
)
from coordinator.store.room import new_id, plain_id
from coordinator.store.rows import label
from coordinator.store.thread_reads import conversation, plain_thread, thread_not_found
from manta.errors import NotFound

_WRITE_MESSAGES = Bulk(lambda kind: inserted(kind, thread_messages))
_WRITE_BRANCHES = Bulk(lambda kind: inserted(kind, thread_branches))
_WRITE_STATES = Bulk(lambda kind: inserted(kind, thread_states))
_WRITE_LABELS = Bulk(lambda kind: inserted(kind, thread_labels))
_ADVANCE = Bulk(
    lambda _: (
        update(threads)
        .where(threads.c.number == bindparam("of"))
        .values(last_state=bindparam("state"), last_message=bindparam("message"), updated_at=bindparam("now"))
    )
)
# Held against other changes of the thread, but not against runs that begin.
_LOCK = (
    select(threads)
    .where(threads.c.tenant == bindparam("of"), threads.c.id == bindparam("thread"))
    .with_for_update(key_share=True)
)
_STATE = select(thread_states).where(
    thread_states.c.tenant == bindparam("of"), thread_states.c.thread_id == bindparam("thread")
)
_CURRENT = _STATE.where(thread_states.c.number == bindparam("state"))
_NAMED = _STATE.where(thread_states.c.checkpoint == bindparam("name"))
_FORGET_LABELS = delete(thread_labels).where(
    thread_labels.c.tenant == bindparam("of"),
    thread_labels.c.thread_id == bindparam("thread"),
    thread_labels.c.part == bindparam("kind"),
)
_KNOWN = (
    select(thread_messages.c.number)
    .where(
        thread_messages.c.tenant == bindparam("of"),
        thread_messages.c.thread_id == bindparam("thread"),
        thread_messages.c.label.in_(bindparam("labels", expanding=True)),
    )
    .limit(1)
)


def lock_thread_row(connection: Connection, tenant: str, thread: str) -> Row[Any]:
    """Raises NotFound."""
    row = connection.execute(_LOCK, {"of": tenant, "thread": plain_thread(thread)}).one_or_none()
    if row is None:
        raise thread_not_found(thread)
    return row


def current_state(connection: Connection, thread: Row[Any]) -> Row[Any] | None:
    given = {"of": thread.tenant, "thread": thread.id, "state": thread.last_state}
    return connection.execute(_CURRENT, given).one_or_none()


def named_state(connection: Connection, thread: Row[Any], checkpoint: str) -> Row[Any]:
    """Raises NotFound."""

    def missing(wanted: str) -> NotFound:
        return NotFound(f"thread {thread.id} has no checkpoint {wanted!r}", fix="take one from its history")

    given = {"of": thread.tenant, "thread": thread.id, "name": plain_id(checkpoint, missing)}
    row = connection.execute(_NAMED, given).one_or_none()
    if row is None:
        raise missing(checkpoint)
    return row


def add_state(
    connection: Connection,
    thread: Row[Any],
    base: Row[Any] | None,
    values: Mapping[str, Any],
    messages: Sequence[Mapping[str, Any]],
    run_id: str | None,
    now: float,
) -> None:
    """Makes a state out of `base`, with these values and these messages after its own. `thread` is locked."""
    kept, count, new = _combined(connection, thread, base, messages)
    own = {"tenant": thread.tenant, "thread_id": thread.id}
    first = thread.last_message + 1
    rows = [
        {**own, "number": number, "label": label("id", message["id"]), "message": text_of(message)}
        for number, message in enumerate(new, first)
    ]
    _WRITE_MESSAGES.run(connection, rows)
    if rows and (kept or 0) != thread.last_message:
        _WRITE_BRANCHES.run(connection, [{**own, "first": first, "after": kept}])
    state = {
        **own,
        "number": thread.last_state + 1,
        "checkpoint": new_id(),
        "base": base.number if base is not None else None,
        "run_id": run_id,
        "last_message": thread.last_message + len(rows) if rows else kept,
        "messages": count + len(rows),
        "content": text_of(dict(values)),
        "created_at": now,
    }
    _WRITE_STATES.run(connection, [state])
    last = {"state": state["number"], "message": thread.last_message + len(rows)}
    _ADVANCE.run(connection, [{"of": thread.number, "now": now, **last}])
    forget_labels(connection, thread.tenant, thread.id, "values")
    write_labels(connection, thread.tenant, thread.id, "values", values)


def forget_labels(connection: Connection, tenant: str, thread: str, part: str) -> None:
    connection.execute(_FORGET_LABELS, {"of": tenant, "thread": thread, "kind": part})


def write_labels(
    connection: Connection, tenant: str, thread: str, part: str, entries: Mapping[str, Any]
) -> None:
    """By which the thread is found. Raises InvalidInput for a value that is not plain JSON."""
    own = {"tenant": tenant, "thread_id": thread, "part": part}
    _WRITE_LABELS.run(connection, [{**own, "label": label(key, value)} for key, value in entries.items()])


def _combined(
    connection: Connection, thread: Row[Any], base: Row[Any] | None, messages: Sequence[Mapping[str, Any]]
) -> tuple[int | None, int, list[dict[str, Any]]]:
    """The last message that stays, how many stay, and the messages to write after them."""
    new = {message["id"]: message for message in map(_named, messages)}
    tip: int | None = base.last_message if base is not None else None
    count: int = base.messages if base is not None else 0
    sent = [name for message in messages if isinstance(name := message.get("id"), str) and name]
    if tip is None or not _knows(connection, thread, sent):
        return tip, count, list(new.values())
    rows = conversation(connection, thread.tenant, thread.id, tip)
    whole = {row.message["id"]: row.message for row in rows} | new
    told = list(whole.values())
    same = next((n for n, row in enumerate(rows) if row.message != told[n]), len(rows))
    return (rows[same - 1].number if same else None), same, told[same:]


def _knows(connection: Connection, thread: Row[Any], sent: Sequence[str]) -> bool:
    """Whether the thread has ever had a message of one of these ids."""
    labels = [label("id", name) for name in sent]
    given = {"of": thread.tenant, "thread": thread.id, "labels": labels}
    return bool(labels) and connection.execute(_KNOWN, given).first() is not None


def _named(message: Mapping[str, Any]) -> dict[str, Any]:
    given = message.get("id")
    return {**message, "id": given if isinstance(given, str) and given else new_id()}
