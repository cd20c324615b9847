"""The journal's tables. Tenant is part of every key, so no query can cross tenants by leaving it out.

What changes often (`runs`) is kept apart from what is written once and may be large (`run_inputs`):
SQLite rewrites a whole row, however large, when one of its columns changes.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)

from manta.messages import Usage

USAGE_FIELDS: tuple[str, ...] = tuple(f.name for f in dataclasses.fields(Usage))
RESERVED_FIELDS = ("reserved_tokens", "reserved_model_calls", "reserved_tool_calls", "reserved_cost_micros")
"""What calls that have no outcome yet may use at most; tokens in and out together."""

# Constraint names are fixed, so that a later migration can name them on both databases.
metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

# Text JSON on PostgreSQL too: JSONB refuses \u0000, which models and fetched pages do write.
JSON_TEXT = JSON(none_as_null=True)


def counters(names: Iterable[str]) -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=False) for name in names]


def of_run(*columns: Any) -> tuple[Any, ...]:
    """Columns and the foreign key of a table whose rows belong to a run. They are deleted with it."""
    return (
        Column("tenant", String, primary_key=True),
        Column("run_id", String, primary_key=True),
        *columns,
        ForeignKeyConstraint(["tenant", "run_id"], ["runs.tenant", "runs.id"]),
    )


BY_A_KEY = text("principal <> 'local'")
"""Runs that came with an API key: without one everybody is `local`."""


def partial_index(filled: str, *columns: str) -> Index:
    """An index of the rows in which the column `filled` is set."""
    there = text(f"{filled} IS NOT NULL")
    return Index(None, *columns, sqlite_where=there, postgresql_where=there)


runs = Table(
    "runs",
    metadata,
    # The order of creation, also when the clock jumps.
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("tenant", String, nullable=False),
    Column("id", String, nullable=False),
    Column("principal", String, nullable=False),
    Column("graph_name", String, nullable=False),
    Column("graph_version", String, nullable=False),
    Column("idempotency_key", String),
    Column("body_hash", String, nullable=False),
    Column("status", String, nullable=False),
    Column("reason", String),
    Column("error", JSON_TEXT),
    Column("output", JSON_TEXT),
    Column("epoch", Integer, nullable=False),
    Column("owner", String),
    Column("cancel_requested", Boolean, nullable=False),
    # The last event's number, and the last number given to a step or a call (their order in the run).
    Column("last_seq", Integer, nullable=False),
    Column("last_entry", Integer, nullable=False),
    Column("deadline", Double),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    *counters(USAGE_FIELDS),
    # Sums over the calls that have no outcome yet, and how many they are.
    *counters(RESERVED_FIELDS),
    Column("open_calls", Integer, nullable=False),
    # Decisions that the owner has not acted on.
    Column("open_decisions", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("takeovers", Integer, nullable=False),
    Column("max_active", Integer),
    Column("budget", JSON_TEXT),
    Column("thread", String),
    Column("webhook", String),
    Column("forked_from", String),
    # Set only while the run is waiting.
    Column("wake_at", Double),
    UniqueConstraint("id"),
    UniqueConstraint("tenant", "id"),
    UniqueConstraint("tenant", "idempotency_key"),
    Index(None, "tenant", "number"),
    Index(None, "tenant", "graph_name", "number"),
    Index(None, "status", "number"),
    partial_index("thread", "tenant", "thread", "status"),
    partial_index("wake_at", "wake_at"),
    # What a key's runs have spent since a moment.
    Index(
        "ix_runs_by_key",
        "tenant",
        "principal",
        "created_at",
        sqlite_where=BY_A_KEY,
        postgresql_where=BY_A_KEY,
    ),
)

# A version names the content of a graph: many runs share one. Graphs stay when their runs are deleted.
graphs = Table(
    "graphs",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("version", String, primary_key=True),
    Column("content", JSON_TEXT, nullable=False),
)

run_inputs = Table(
    "run_inputs",
    metadata,
    *of_run(
        Column("input", JSON_TEXT),
        Column("metadata", JSON_TEXT, nullable=False),
        Column("overrides", JSON_TEXT),
    ),
)

# A label is the hash of one metadata entry: exact match by index, for any key and value, on both databases.
run_labels = Table(
    "run_labels",
    metadata,
    *of_run(Column("label", String(64), primary_key=True)),
    Index(None, "tenant", "label", "run_id"),
)

steps = Table(
    "steps",
    metadata,
    *of_run(
        Column("key", String, primary_key=True),
        Column("number", Integer, nullable=False),
        Column("step", String, nullable=False),
        Column("item", Integer),
        Column("state", String, nullable=False),
        Column("epoch", Integer, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("agent", String),
        Column("input", JSON_TEXT),
        Column("output", JSON_TEXT),
        Column("error", JSON_TEXT),
        Column("waiting", JSON_TEXT),
        Column("notes", JSON_TEXT),
        *counters(USAGE_FIELDS),
        Column("started_at", Double),
        Column("finished_at", Double),
    ),
)

calls = Table(
    "calls",
    metadata,
    *of_run(
        Column("step", String, primary_key=True),
        Column("key", String, primary_key=True),
        Column("number", Integer, nullable=False),
        Column("kind", String, nullable=False),
        Column("name", String, nullable=False),
        Column("request_hash", String, nullable=False),
        Column("request", JSON_TEXT),
        Column("idempotent", Boolean, nullable=False),
        Column("state", String, nullable=False),
        Column("epoch", Integer, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("response", JSON_TEXT),
        Column("error", JSON_TEXT),
        Column("notes", JSON_TEXT),
        *counters(USAGE_FIELDS),
        # Zero unless the state is `intent`.
        *counters(RESERVED_FIELDS),
        Column("begun_at", Double, nullable=False),
        Column("finished_at", Double),
    ),
)

events = Table(
    "events",
    metadata,
    *of_run(
        Column("seq", Integer, primary_key=True, autoincrement=False),
        Column("type", String, nullable=False),
        Column("at", Double, nullable=False),
        Column("step", String),
        Column("data", JSON_TEXT, nullable=False),
    ),
)

decisions = Table(
    "decisions",
    metadata,
    *of_run(
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("step", String, nullable=False),
        Column("action", String, nullable=False),
        Column("value", JSON_TEXT),
        # As JSON, which on PostgreSQL holds text that its own type refuses.
        Column("comment", JSON_TEXT, nullable=False),
        Column("by", String, nullable=False),
        Column("at", Double, nullable=False),
        Column("taken", Boolean, nullable=False),
    ),
)

# Who may own runs, and until when the others leave them alone.
coordinators = Table(
    "coordinators",
    metadata,
    Column("name", String, primary_key=True),
    Column("lease_until", Double, nullable=False),
)

# The last number that was given out. No number comes twice, and on PostgreSQL whoever takes one holds the row
# until its transaction ends: nothing with a smaller number can appear later.
sequences = Table(
    "sequences",
    metadata,
    Column("name", String, primary_key=True),
    Column("last", BigInteger, nullable=False),
)

# The last group of calls that each writer has committed, for when the answer to a COMMIT is lost.
writers = Table(
    "writers",
    metadata,
    Column("id", String, primary_key=True),
    Column("last_group", BigInteger, nullable=False),
    # By the database's clock, so that those of the dead can be told.
    Column("seen_at", Double),
)


def tables_of_runs() -> list[Table]:
    """All tables whose rows belong to a run, of other modules too: they are deleted with it."""
    return [
        table
        for table in metadata.sorted_tables
        if any(key.referred_table is runs for key in table.foreign_key_constraints)
    ]
