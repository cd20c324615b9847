"""Tables of API keys and of what went over them."""

from sqlalchemy import BigInteger, Column, Double, Index, String, Table, text

from coordinator.store.schema import JSON_TEXT, metadata

NOT_REVOKED = text("revoked_at IS NULL")

api_keys = Table(
    "api_keys",
    metadata,
    # Part of the key's text: it is looked up before the tenant is known.
    Column("id", String(16), primary_key=True),
    Column("tenant", String, nullable=False),
    Column("principal", String, nullable=False),
    Column("scopes", JSON_TEXT, nullable=False),
    Column("limits", JSON_TEXT, nullable=False),
    # SHA-256 in hexadecimal; the old one holds until `rotated_until`.
    Column("secret_hash", String(64), nullable=False),
    Column("old_hash", String(64)),
    Column("rotated_until", Double),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Column("last_used_at", Double),
    # One valid key for a name: what its runs spend is counted by the name.
    Index(
        "uq_api_keys_tenant_principal",
        "tenant",
        "principal",
        unique=True,
        sqlite_where=NOT_REVOKED,
        postgresql_where=NOT_REVOKED,
    ),
)

# Each gateway writes its own totals, so that a write that is repeated counts once.
key_meters = Table(
    "key_meters",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("principal", String, primary_key=True),
    # In UTC, as 2026-11-24.
    Column("day", String(10), primary_key=True),
    # The gateway's life that counted.
    Column("meter", String(32), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("micros", BigInteger, nullable=False),
)
