"""Models, their versions and routes, and how the versions did."""

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: None = None
depends_on: None = None

_NAME = sa.String(63)
_WORD = sa.String(16)


def upgrade() -> None:
    op.create_table(
        "models",
        sa.Column("name", _NAME, nullable=False),
        sa.Column("last_version", sa.Integer(), nullable=False),
        sa.Column("last_revision", sa.Integer(), nullable=False),
        sa.Column("removed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_models"),
    )
    _create_versions()
    _create_routes()
    _create_arms()
    op.execute("INSERT INTO sequences (name, last) VALUES ('models', 0)")


def downgrade() -> None:
    raise NotImplementedError("what this revision keeps has no place in the one before: restore a copy")


def _create_versions() -> None:
    op.create_table(
        "model_versions",
        sa.Column("model", _NAME, nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("declared", sa.JSON(), nullable=True),
        sa.Column("note", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("idempotency_key", sa.String(), nullable=True),
        sa.Column("up", sa.Boolean(), nullable=False),
        sa.Column("down_at", sa.Double(), nullable=True),
        sa.Column("removed", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name="fk_model_versions"),
        sa.PrimaryKeyConstraint("model", "version", name="pk_model_versions"),
        sa.UniqueConstraint("model", "idempotency_key", name="uq_model_versions_model_idempotency_key"),
    )


def _create_routes() -> None:
    op.create_table(
        "model_routes",
        sa.Column("model", _NAME, nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("weights", sa.JSON(), nullable=False),
        sa.Column("sticky", _WORD, nullable=False),
        sa.Column("why", _WORD, nullable=False),
        sa.Column("state", _WORD, nullable=False),
        sa.Column("keep_s", sa.Double(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("active_at", sa.Double(), nullable=True),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name="fk_model_routes"),
        sa.PrimaryKeyConstraint("model", "revision", name="pk_model_routes"),
    )
    for state in ("active", "pending"):
        one = sa.text(f"state = '{state}'")
        op.create_index(
            f"uq_model_routes_{state}",
            "model_routes",
            ["model"],
            unique=True,
            sqlite_where=one,
            postgresql_where=one,
        )


def _create_arms() -> None:
    op.create_table(
        "model_arms",
        sa.Column("model", _NAME, nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("meter", sa.String(32), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.Column("answered", sa.BigInteger(), nullable=False),
        sa.Column("first_log_sum", sa.Double(), nullable=False),
        sa.Column("first_log_squares", sa.Double(), nullable=False),
        sa.Column("total_log_sum", sa.Double(), nullable=False),
        sa.Column("total_log_squares", sa.Double(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("micros_sum", sa.Double(), nullable=False),
        sa.Column("micros_squares", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("model", "revision", "version", "meter", name="pk_model_arms"),
    )
