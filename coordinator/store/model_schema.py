"""Tables of models, their versions and routes, and of how the versions did.

They belong to the platform, not to a tenant. Nothing is deleted, so that no number of a version or a revision
comes twice.
"""

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
    UniqueConstraint,
    text,
)

from coordinator.store.schema import JSON_TEXT, metadata

BOOK = "models"
"""The row of `sequences` with the generation: whoever changes a model holds it."""
ACTIVE = text("state = 'active'")
PENDING = text("state = 'pending'")
_NAME = String(63)
_WORD = String(16)

models = Table(
    "models",
    metadata,
    Column("name", _NAME, primary_key=True),
    # The last numbers given out.
    Column("last_version", Integer, nullable=False),
    Column("last_revision", Integer, nullable=False),
    Column("removed", Boolean, nullable=False),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("model", _NAME, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("settings", JSON_TEXT, nullable=False),
    # What the settings file said when it was last read; None for a version that is not from there.
    Column("declared", JSON_TEXT),
    # As JSON, which on PostgreSQL holds text that its own type refuses.
    Column("note", JSON_TEXT, nullable=False),
    Column("created_by", String, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("idempotency_key", String),
    Column("up", Boolean, nullable=False),
    Column("down_at", Double),
    # It cannot be chosen any more.
    Column("removed", Boolean, nullable=False),
    ForeignKeyConstraint(["model"], ["models.name"]),
    UniqueConstraint("model", "idempotency_key"),
)

model_routes = Table(
    "model_routes",
    metadata,
    Column("model", _NAME, primary_key=True),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    # Shares by version.
    Column("weights", JSON_TEXT, nullable=False),
    Column("sticky", _WORD, nullable=False),
    Column("why", _WORD, nullable=False),
    Column("state", _WORD, nullable=False),
    # How long what it replaces stays up, in seconds.
    Column("keep_s", Double, nullable=False),
    Column("created_by", String, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("active_at", Double),
    Column("ended_at", Double),
    Column("error", JSON_TEXT),
    ForeignKeyConstraint(["model"], ["models.name"]),
    Index("uq_model_routes_active", "model", unique=True, sqlite_where=ACTIVE, postgresql_where=ACTIVE),
    Index("uq_model_routes_pending", "model", unique=True, sqlite_where=PENDING, postgresql_where=PENDING),
)

# Each process writes its own totals, so that a write that is repeated counts once.
model_arms = Table(
    "model_arms",
    metadata,
    Column("model", _NAME, primary_key=True),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, primary_key=True, autoincrement=False),
    # The process's life that counted.
    Column("meter", String(32), primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("failures", BigInteger, nullable=False),
    Column("answered", BigInteger, nullable=False),
    Column("first_log_sum", Double, nullable=False),
    Column("first_log_squares", Double, nullable=False),
    Column("total_log_sum", Double, nullable=False),
    Column("total_log_squares", Double, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("micros_sum", Double, nullable=False),
    Column("micros_squares", Double, nullable=False),
)
