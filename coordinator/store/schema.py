"""The journal's tables. Tenant is part of every key, so no query can cross tenants by leaving it out.

What changes often (`runs`) is kept apart from what is written once and may be large (`run_inputs`):
SQLite rewrites a whole row, however large, when one of its columns changes.
"""

import dataclasses
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
)

from manta.messages import Usage

USAGE_FIELDS: tuple[str, ...] = tuple(f.name for f in dataclasses.fields(Usage))

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
_JSON = JSON(none_as_null=True)


def _usage_columns() -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=False) for name in USAGE_FIELDS]


def _of_run(*columns: Any) -> tuple[Any, ...]:
    """Columns and the foreign key of a table whose rows belong to a run."""
    return (
        Column("tenant", String, primary_key=True),
        Column("run_id", String, primary_key=True),
        *columns,
        ForeignKeyConstraint(["tenant", "run_id"], ["runs.tenant", "runs.id"]),
    )


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
    Column("error", _JSON),
    Column("output", _JSON),
    Column("epoch", Integer, nullable=False),
    Column("owner", String),
    Column("cancel_requested", Boolean, nullable=False),
    # The last event's number, and the last number given to a step or a call (their order in the run).
    Column("last_seq", Integer, nullable=False),
    Column("last_entry", Integer, nullable=False),
    Column("deadline", Double),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    *_usage_columns(),
    UniqueConstraint("id"),
    UniqueConstraint("tenant", "id"),
    UniqueConstraint("tenant", "idempotency_key"),
    Index(None, "tenant", "number"),
    Index(None, "tenant", "graph_name", "number"),
    Index(None, "status", "number"),
)

run_inputs = Table(
    "run_inputs",
    metadata,
    *_of_run(
        Column("graph", _JSON, nullable=False),
        Column("input", _JSON),
        Column("metadata", _JSON, nullable=False),
    ),
)

# A label is the hash of one metadata entry: exact match by index, for any key and value, on both databases.
run_labels = Table(
    "run_labels",
    metadata,
    *_of_run(Column("label", String(64), primary_key=True)),
    Index(None, "tenant", "label", "run_id"),
)

steps = Table(
    "steps",
    metadata,
    *_of_run(
        Column("key", String, primary_key=True),
        Column("number", Integer, nullable=False),
        Column("step", String, nullable=False),
        Column("item", Integer),
        Column("state", String, nullable=False),
        Column("epoch", Integer, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("agent", String),
        Column("input", _JSON),
        Column("output", _JSON),
        Column("error", _JSON),
        *_usage_columns(),
        Column("started_at", Double),
        Column("finished_at", Double),
    ),
)

calls = Table(
    "calls",
    metadata,
    *_of_run(
        Column("step", String, primary_key=True),
        Column("key", String, primary_key=True),
        Column("number", Integer, nullable=False),
        Column("kind", String, nullable=False),
        Column("name", String, nullable=False),
        Column("request_hash", String, nullable=False),
        Column("request", _JSON),
        Column("idempotent", Boolean, nullable=False),
        Column("state", String, nullable=False),
        Column("epoch", Integer, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("response", _JSON),
        Column("error", _JSON),
        *_usage_columns(),
        Column("begun_at", Double, nullable=False),
        Column("finished_at", Double),
    ),
)

# The last group of calls that each writer has committed, for when the answer to a COMMIT is lost.
writers = Table(
    "writers",
    metadata,
    Column("id", String, primary_key=True),
    Column("last_group", BigInteger, nullable=False),
)

events = Table(
    "events",
    metadata,
    *_of_run(
        Column("seq", Integer, primary_key=True, autoincrement=False),
        Column("type", String, nullable=False),
        Column("at", Double, nullable=False),
        Column("step", String),
        Column("data", _JSON, nullable=False),
    ),
)
