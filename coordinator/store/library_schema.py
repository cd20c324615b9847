"""Tables of what lives beside runs: threads, items, schedules, webhooks, feedback.

Searches by exact values go by labels, as those of runs: the hash of an entry, which both databases can index
whatever its size.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from coordinator.store.schema import JSON_TEXT, metadata, of_run, partial_index

_LABEL = String(64)


def _number() -> Column[int]:
    """The order of creation, also when the clock jumps."""
    return Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True)


def _times() -> tuple[Column[float], Column[float]]:
    return Column("created_at", Double, nullable=False), Column("updated_at", Double, nullable=False)


def _of_thread(*columns: Any) -> tuple[Any, ...]:
    """Columns and the foreign key of a table whose rows belong to a thread."""
    return (
        Column("tenant", String, primary_key=True),
        Column("thread_id", String, primary_key=True),
        *columns,
        ForeignKeyConstraint(["tenant", "thread_id"], ["threads.tenant", "threads.id"]),
    )


threads = Table(
    "threads",
    metadata,
    _number(),
    Column("tenant", String, nullable=False),
    Column("id", String, nullable=False),
    Column("metadata", JSON_TEXT, nullable=False),
    # The last numbers given out; the last state is the thread's current one.
    Column("last_state", Integer, nullable=False),
    Column("last_message", Integer, nullable=False),
    *_times(),
    UniqueConstraint("tenant", "id"),
    Index(None, "tenant", "number"),
)

thread_labels = Table(
    "thread_labels",
    metadata,
    *_of_thread(
        # `metadata`, or `values` for those of the current state.
        Column("part", String, primary_key=True),
        Column("label", _LABEL, primary_key=True),
    ),
    Index(None, "tenant", "label", "thread_id"),
)

# Each message is there once, and comes after the one before it by number, except where a branch begins.
thread_messages = Table(
    "thread_messages",
    metadata,
    *_of_thread(
        Column("number", Integer, primary_key=True, autoincrement=False),
        # Of its id, by which a client may send it again.
        Column("label", _LABEL, nullable=False),
        Column("message", JSON_TEXT, nullable=False),
    ),
    Index(None, "tenant", "thread_id", "label"),
)

thread_branches = Table(
    "thread_branches",
    metadata,
    *_of_thread(
        # The number of the branch's first message.
        Column("first", Integer, primary_key=True, autoincrement=False),
        # That of the message before it; None begins the conversation.
        Column("after", Integer),
    ),
)

thread_states = Table(
    "thread_states",
    metadata,
    *_of_thread(
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("checkpoint", String, nullable=False),
        # The state it was made from.
        Column("base", Integer),
        Column("run_id", String),
        Column("last_message", Integer),
        Column("messages", Integer, nullable=False),
        Column("content", JSON_TEXT, nullable=False),
        Column("created_at", Double, nullable=False),
    ),
    UniqueConstraint("tenant", "thread_id", "checkpoint"),
    Index(None, "tenant", "run_id"),
)

# `id` is the hash of namespace and key: these may be too long for an index.
items = Table(
    "items",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("id", _LABEL, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("key", String, nullable=False),
    Column("value", JSON_TEXT, nullable=False),
    *_times(),
)

# One label for each beginning of the namespace, and one for each field of the value.
item_labels = Table(
    "item_labels",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("label", _LABEL, primary_key=True),
    Column("item", _LABEL, primary_key=True),
    ForeignKeyConstraint(["tenant", "item"], ["items.tenant", "items.id"]),
    Index(None, "tenant", "item"),
)

schedules = Table(
    "schedules",
    metadata,
    _number(),
    Column("tenant", String, nullable=False),
    Column("id", String, nullable=False),
    Column("principal", String, nullable=False),
    Column("graph_name", String, nullable=False),
    Column("input", JSON_TEXT),
    Column("cron", String, nullable=False),
    Column("timezone", String, nullable=False),
    Column("metadata", JSON_TEXT, nullable=False),
    Column("enabled", Boolean, nullable=False),
    # None while it is not enabled.
    Column("next_at", Double),
    Column("last_at", Double),
    Column("last_run", String),
    Column("last_error", JSON_TEXT),
    *_times(),
    UniqueConstraint("tenant", "id"),
    partial_index("next_at", "next_at"),
)

# The outbox: written in the transaction that ends a run.
webhooks = Table(
    "webhooks",
    metadata,
    *of_run(
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("id", String, nullable=False),
        Column("url", Text, nullable=False),
        Column("host", String, nullable=False),
        Column("state", String, nullable=False),
        Column("attempts", Integer, nullable=False),
        # None once it is delivered or given up.
        Column("next_at", Double),
        Column("error", JSON_TEXT),
        *_times(),
    ),
    UniqueConstraint("id"),
    partial_index("next_at", "next_at"),
)

feedback = Table(
    "feedback",
    metadata,
    *of_run(
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("id", String, nullable=False),
        Column("principal", String, nullable=False),
        Column("rating", Integer),
        # As JSON, which on PostgreSQL holds text that its own type refuses.
        Column("comment", JSON_TEXT),
        Column("created_at", Double, nullable=False),
    ),
    UniqueConstraint("id"),
)
