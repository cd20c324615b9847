"""API keys, what went over them, and an index of the runs that came with one."""

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    _create_keys()
    _create_meters()
    by_a_key = sa.text("principal <> 'local'")
    op.create_index(
        "ix_runs_by_key",
        "runs",
        ["tenant", "principal", "created_at"],
        sqlite_where=by_a_key,
        postgresql_where=by_a_key,
    )


def downgrade() -> None:
    raise NotImplementedError("what this revision keeps has no place in the one before: restore a copy")


def _create_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("principal", sa.String(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("limits", sa.JSON(), nullable=False),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("old_hash", sa.String(64), nullable=True),
        sa.Column("rotated_until", sa.Double(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("revoked_at", sa.Double(), nullable=True),
        sa.Column("last_used_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )
    not_revoked = sa.text("revoked_at IS NULL")
    op.create_index(
        "uq_api_keys_tenant_principal",
        "api_keys",
        ["tenant", "principal"],
        unique=True,
        sqlite_where=not_revoked,
        postgresql_where=not_revoked,
    )


def _create_meters() -> None:
    op.create_table(
        "key_meters",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("principal", sa.String(), nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("meter", sa.String(32), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("micros", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "principal", "day", "meter", name="pk_key_meters"),
    )
