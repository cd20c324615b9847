"""Requests that are sent again because their answer was lost: they are carried out once.

What a request changes keeps a label of it, so it is remembered for as long as that is there.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, Table, insert, select

from coordinator.store.library_schema import thread_labels
from coordinator.store.room import encoded
from coordinator.store.schema import run_labels
from manta.errors import IdempotencyConflict

PART = "request"
"""Of a thread's labels."""


def seen_by_run(connection: Connection, run: Row[Any], what: str, key: str | None, body: Any) -> bool:
    """Whether the run, which is locked, had this request before; from now on it has. Never without a key.

    Raises:
        IdempotencyConflict: the key came with another body.
    """
    own = {"tenant": run.tenant, "run_id": run.id}
    return _seen(connection, run_labels, own, [what, run.id], key, body)


def seen_by_thread(
    connection: Connection, tenant: str, thread: str, what: str, key: str | None, body: Any
) -> bool:
    """The same for a thread, which nobody else changes now."""
    own = {"tenant": tenant, "thread_id": thread, "part": PART}
    return _seen(connection, thread_labels, own, [what, thread], key, body)


def used_otherwise(key: str) -> IdempotencyConflict:
    return IdempotencyConflict(
        f"the idempotency key {key!r} was used with another request",
        fix="use a new Idempotency-Key for a new request",
    )


def _seen(
    connection: Connection, table: Table, own: Mapping[str, str], what: list[str], key: str | None, body: Any
) -> bool:
    if key is None:
        return False
    used, same = _label([*what, key]), _label([*what, key, body])
    known = select(table.c.label).where(*(table.c[name] == value for name, value in own.items()))
    found = connection.execute(known.where(table.c.label.in_((used, same)))).scalars().all()
    if same in found:
        return True
    if found:
        raise used_otherwise(key)
    connection.execute(insert(table), [{**own, "label": used}, {**own, "label": same}])
    return False


def _label(parts: list[Any]) -> str:
    # An object, where those of metadata are hashes of lists.
    return hashlib.sha256(encoded("the request", {"request": parts}).encode()).hexdigest()
