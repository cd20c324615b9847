"""Threads, items, schedules, webhooks, feedback; writers leave the time they were last seen."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    _create_threads()
    _create_items()
    _create_schedules()
    _create_of_runs()
    op.add_column("writers", _time("seen_at", nullable=True))


def downgrade() -> None:
    raise NotImplementedError("what this revision keeps has no place in the one before: restore a copy")


def _number() -> "sa.Column[int]":
    return sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False)


def _text(name: str, *, nullable: bool = False) -> "sa.Column[str]":
    return sa.Column(name, sa.String(), nullable=nullable)


def _label(name: str) -> "sa.Column[str]":
    return sa.Column(name, sa.String(64), nullable=False)


def _json(name: str, *, nullable: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, sa.JSON(), nullable=nullable)


def _integer(name: str, *, nullable: bool = False) -> "sa.Column[int]":
    return sa.Column(name, sa.Integer(), nullable=nullable)


def _counted(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.Integer(), autoincrement=False, nullable=False)


def _time(name: str, *, nullable: bool = False) -> "sa.Column[float]":
    return sa.Column(name, sa.Double(), nullable=nullable)


def _index_of_filled(table: str, column: str) -> None:
    there = sa.text(f"{column} IS NOT NULL")
    op.create_index(f"ix_{table}_{column}", table, [column], sqlite_where=there, postgresql_where=there)


def _create_threads() -> None:
    op.create_table(
        "threads",
        _number(),
        _text("tenant"),
        _text("id"),
        _json("metadata"),
        _integer("last_state"),
        _integer("last_message"),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("number", name="pk_threads"),
        sa.UniqueConstraint("tenant", "id", name="uq_threads_tenant_id"),
    )
    op.create_index("ix_threads_tenant_number", "threads", ["tenant", "number"])
    _table_of_thread("thread_labels", ("part", "label"), _text("part"), _label("label"))
    op.create_index(
        "ix_thread_labels_tenant_label_thread_id", "thread_labels", ["tenant", "label", "thread_id"]
    )
    _table_of_thread(
        "thread_messages",
        ("number",),
        _counted("number"),
        _label("label"),
        _json("message"),
    )
    op.create_index(
        "ix_thread_messages_tenant_thread_id_label", "thread_messages", ["tenant", "thread_id", "label"]
    )
    _table_of_thread("thread_branches", ("first",), _counted("first"), _integer("after", nullable=True))
    _table_of_thread(
        "thread_states",
        ("number",),
        _counted("number"),
        _text("checkpoint"),
        _integer("base", nullable=True),
        _text("run_id", nullable=True),
        _integer("last_message", nullable=True),
        _integer("messages"),
        _json("content"),
        _time("created_at"),
        sa.UniqueConstraint(
            "tenant", "thread_id", "checkpoint", name="uq_thread_states_tenant_thread_id_checkpoint"
        ),
    )
    op.create_index("ix_thread_states_tenant_run_id", "thread_states", ["tenant", "run_id"])


def _table_of_thread(name: str, key: tuple[str, ...], *columns: Any) -> None:
    op.create_table(
        name,
        _text("tenant"),
        _text("thread_id"),
        *columns,
        sa.PrimaryKeyConstraint("tenant", "thread_id", *key, name=f"pk_{name}"),
        sa.ForeignKeyConstraint(["tenant", "thread_id"], ["threads.tenant", "threads.id"], name=f"fk_{name}"),
    )


def _create_items() -> None:
    op.create_table(
        "items",
        _text("tenant"),
        _label("id"),
        sa.Column("namespace", sa.Text(), nullable=False),
        _text("key"),
        _json("value"),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("tenant", "id", name="pk_items"),
    )
    op.create_table(
        "item_labels",
        _text("tenant"),
        _label("label"),
        _label("item"),
        sa.PrimaryKeyConstraint("tenant", "label", "item", name="pk_item_labels"),
        sa.ForeignKeyConstraint(["tenant", "item"], ["items.tenant", "items.id"], name="fk_item_labels"),
    )
    op.create_index("ix_item_labels_tenant_item", "item_labels", ["tenant", "item"])


def _create_schedules() -> None:
    op.create_table(
        "schedules",
        _number(),
        _text("tenant"),
        _text("id"),
        _text("principal"),
        _text("graph_name"),
        _json("input", nullable=True),
        _text("cron"),
        _text("timezone"),
        _json("metadata"),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        _time("next_at", nullable=True),
        _time("last_at", nullable=True),
        _text("last_run", nullable=True),
        _json("last_error", nullable=True),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("number", name="pk_schedules"),
        sa.UniqueConstraint("tenant", "id", name="uq_schedules_tenant_id"),
    )
    _index_of_filled("schedules", "next_at")


def _create_of_runs() -> None:
    _table_of_run(
        "webhooks",
        sa.Column("url", sa.Text(), nullable=False),
        _text("host"),
        _text("state"),
        _integer("attempts"),
        _time("next_at", nullable=True),
        _json("error", nullable=True),
        _time("created_at"),
        _time("updated_at"),
    )
    _index_of_filled("webhooks", "next_at")
    _table_of_run(
        "feedback",
        _text("principal"),
        _integer("rating", nullable=True),
        _json("comment", nullable=True),
        _time("created_at"),
    )


def _table_of_run(name: str, *columns: Any) -> None:
    op.create_table(
        name,
        _text("tenant"),
        _text("run_id"),
        _counted("number"),
        _text("id"),
        *columns,
        sa.PrimaryKeyConstraint("tenant", "run_id", "number", name=f"pk_{name}"),
        sa.UniqueConstraint("id", name=f"uq_{name}_id"),
        sa.ForeignKeyConstraint(["tenant", "run_id"], ["runs.tenant", "runs.id"], name=f"fk_{name}"),
    )
