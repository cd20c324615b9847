"""API keys as plain values. Times are seconds since the epoch; money is in the unit that prices are given in."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from manta.ids import Tenant
from manta.usage import Usage

Scope: TypeAlias = Literal["runs:read", "runs:write", "chat", "models:write", "admin"]
KeyState: TypeAlias = Literal["valid", "expired", "revoked"]


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key may take; None is no limit. Tokens are in and out together; days and months are those of UTC."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_runs: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    money_per_day: float | None = None
    money_per_month: float | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens in and out together; `micros` are millionths of the unit of money."""

    tokens: int = 0
    micros: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.tokens + other.tokens, self.micros + other.micros)

    @classmethod
    def of(cls, usage: Usage) -> "Spent":
        return cls(usage.input_tokens + usage.output_tokens, usage.cost_micros)


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key without its secret. `principal`: its name, by which its runs go; one of a tenant's valid keys at most.

    `last_used_at` is up to two minutes late. `rotated_until`: how long the secret before the last rotation holds.
    """

    id: str
    tenant: Tenant
    principal: str
    scopes: tuple[Scope, ...]
    limits: KeyLimits
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    rotated_until: float | None
    last_used_at: float | None

    def state(self, now: float) -> KeyState:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "valid"


@dataclass(frozen=True, slots=True)
class NewKey:
    """`text` is what a client sends. It is told here and never again."""

    record: KeyRecord
    text: str


@dataclass(frozen=True, slots=True)
class KeyOnFile:
    """What a gateway needs to let a key in: hashes of its secrets, and what it spent apart from this gateway.

    Hashes are SHA-256 in hexadecimal; `old_hash` is that of the secret before the last rotation.
    """

    record: KeyRecord
    secret_hash: str
    old_hash: str | None
    today: Spent = Spent()
    this_month: Spent = Spent()


@dataclass(frozen=True, slots=True)
class Meter:
    """All that one gateway has counted for one name on one day (`2026-11-24`) since it started."""

    tenant: Tenant
    principal: str
    day: str
    requests: int = 0
    spent: Spent = Spent()


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """What went over a key's name: `requests` to the gateway; tokens and money by models it asked and by its runs."""

    requests: int = 0
    spent: Spent = Spent()
