"""The journal's first tables."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: None = None
depends_on: None = None


def _usage() -> list[sa.Column[int]]:
    names = ("input_tokens", "output_tokens", "cached_tokens", "model_calls", "tool_calls")
    return [sa.Column(name, sa.BigInteger(), nullable=False) for name in names]


def _table_of_run(name: str, key: tuple[str, ...], *columns: Any) -> None:
    op.create_table(
        name,
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("tenant", "run_id", *key, name=f"pk_{name}"),
        sa.ForeignKeyConstraint(["tenant", "run_id"], ["runs.tenant", "runs.id"], name=f"fk_{name}"),
    )


def upgrade() -> None:
    _create_runs()
    _table_of_run(
        "run_inputs",
        (),
        sa.Column("graph", sa.JSON(), nullable=False),
        sa.Column("input", sa.JSON()),
        sa.Column("metadata", sa.JSON(), nullable=False),
    )
    _table_of_run("run_labels", ("label",), sa.Column("label", sa.String(64), nullable=False))
    op.create_index("ix_run_labels_tenant_label_run_id", "run_labels", ["tenant", "label", "run_id"])
    _create_steps()
    _create_calls()
    op.create_table(
        "writers",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("last_group", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_writers"),
    )
    _table_of_run(
        "events",
        ("seq",),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("step", sa.String()),
        sa.Column("data", sa.JSON(), nullable=False),
    )


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("principal", sa.String(), nullable=False),
        sa.Column("graph_name", sa.String(), nullable=False),
        sa.Column("graph_version", sa.String(), nullable=False),
        sa.Column("idempotency_key", sa.String()),
        sa.Column("body_hash", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("reason", sa.String()),
        sa.Column("error", sa.JSON()),
        sa.Column("output", sa.JSON()),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String()),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("last_seq", sa.Integer(), nullable=False),
        sa.Column("last_entry", sa.Integer(), nullable=False),
        sa.Column("deadline", sa.Double()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        *_usage(),
        sa.PrimaryKeyConstraint("number", name="pk_runs"),
        sa.UniqueConstraint("id", name="uq_runs_id"),
        sa.UniqueConstraint("tenant", "id", name="uq_runs_tenant_id"),
        sa.UniqueConstraint("tenant", "idempotency_key", name="uq_runs_tenant_idempotency_key"),
    )
    op.create_index("ix_runs_tenant_number", "runs", ["tenant", "number"])
    op.create_index("ix_runs_tenant_graph_name_number", "runs", ["tenant", "graph_name", "number"])
    op.create_index("ix_runs_status_number", "runs", ["status", "number"])


def _create_steps() -> None:
    _table_of_run(
        "steps",
        ("key",),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("item", sa.Integer()),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("agent", sa.String()),
        sa.Column("input", sa.JSON()),
        sa.Column("output", sa.JSON()),
        sa.Column("error", sa.JSON()),
        *_usage(),
        sa.Column("started_at", sa.Double()),
        sa.Column("finished_at", sa.Double()),
    )


def _create_calls() -> None:
    _table_of_run(
        "calls",
        ("step", "key"),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("request_hash", sa.String(), nullable=False),
        sa.Column("request", sa.JSON()),
        sa.Column("idempotent", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("response", sa.JSON()),
        sa.Column("error", sa.JSON()),
        *_usage(),
        sa.Column("begun_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double()),
    )


def downgrade() -> None:
    for name in ("events", "writers", "calls", "steps", "run_labels", "run_inputs", "runs"):
        op.drop_table(name)
