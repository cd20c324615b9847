"""What went over a key's name: models that gateways asked for it, and the runs that it started."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, case, func, select

from coordinator.store.bulk import Bulk, inserted
from coordinator.store.key_records import KeyUsage, Meter, Spent
from coordinator.store.key_schema import key_meters
from coordinator.store.schema import BY_A_KEY, runs

_COUNTERS = ("requests", "tokens", "micros")


def day_of(now: float) -> str:
    """The day in UTC, as `2026-11-24`."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def count(connection: Connection, meter: str, meters: Sequence[Meter]) -> None:
    """Totals of one gateway; an older word that comes late changes nothing."""
    rows = [
        {
            "tenant": told.tenant,
            "principal": told.principal,
            "day": told.day,
            "meter": meter,
            "requests": told.requests,
            "tokens": told.spent.tokens,
            "micros": told.spent.micros,
        }
        for told in meters
    ]
    _WRITE_METERS.run(connection, rows)


def _upsert(kind: Any) -> Any:
    statement: Any = inserted(kind, key_meters)
    highest = {name: _greater(key_meters.c[name], statement.excluded[name]) for name in _COUNTERS}
    keys = [column.name for column in key_meters.primary_key]
    return statement.on_conflict_do_update(index_elements=keys, set_=highest)


def _greater(old: Column[int], new: Any) -> ColumnElement[int]:
    return case((new > old, new), else_=old)


_WRITE_METERS = Bulk(_upsert)


def spent_since(connection: Connection, tenant: str, principal: str, since: float, but: str = "") -> Spent:
    """Tokens and money since the beginning of a day, without what the meter `but` has counted."""
    tokens, micros = func.sum(key_meters.c.tokens), func.sum(key_meters.c.micros)
    direct = select(tokens, micros).where(*_own(tenant, principal, since), key_meters.c.meter != but)
    return _sum(connection, direct) + _of_runs(connection, tenant, principal, since)


def usage_since(connection: Connection, tenant: str, principal: str, since: float) -> KeyUsage:
    query = select(func.sum(key_meters.c.requests)).where(*_own(tenant, principal, since))
    requests = connection.execute(query).scalar_one()
    return KeyUsage(int(requests or 0), spent_since(connection, tenant, principal, since))


def running(connection: Connection, tenant: str, principal: str) -> int:
    active = runs.c.status.in_(("pending", "running"))
    own = (runs.c.tenant == tenant, runs.c.principal == principal)
    return int(connection.execute(select(func.count()).select_from(runs).where(active, *own)).scalar_one())


def _of_runs(connection: Connection, tenant: str, principal: str, since: float) -> Spent:
    """A run counts whole for the day and the month it was sent in, also while it is at work."""
    tokens = func.sum(runs.c.input_tokens + runs.c.output_tokens)
    own = (BY_A_KEY, runs.c.tenant == tenant, runs.c.principal == principal, runs.c.created_at >= since)
    return _sum(connection, select(tokens, func.sum(runs.c.cost_micros)).where(*own))


def _own(tenant: str, principal: str, since: float) -> tuple[ColumnElement[bool], ...]:
    return (
        key_meters.c.tenant == tenant,
        key_meters.c.principal == principal,
        key_meters.c.day >= day_of(since),
    )


def _sum(connection: Connection, query: Any) -> Spent:
    tokens, micros = connection.execute(query).one()
    return Spent(int(tokens or 0), int(micros or 0))
