"""API keys: who may come in, with what scopes and limits, and what has gone over each name."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from coordinator.api_keys import DEFAULT_SCOPES, SCOPES, digest, new_key_text
from coordinator.store.key_meters import count, running, spent_since, usage_since
from coordinator.store.key_records import KeyLimits, KeyOnFile, KeyRecord, KeyUsage, Meter, NewKey, Scope
from coordinator.store.key_schema import api_keys
from coordinator.store.retention import DAY_S
from coordinator.store.room import Room, plain_id, require_page
from coordinator.store.rows import require_name
from manta.errors import Conflict, InvalidInput, NotFound
from manta.ids import Tenant
from manta.messages import from_json, to_json

NOBODY = "local"
"""Whoever comes without a key, where none is asked for."""


class Keys(Room):
    """Every method with a key's id raises NotFound for one that is not there, but `find`."""

    async def create(
        self,
        tenant: Tenant,
        principal: str,
        scopes: Sequence[Scope] = DEFAULT_SCOPES,
        expires_at: float | None = None,
        limits: KeyLimits | None = None,
    ) -> NewKey:
        """A key by a new name; its text is told here and never again.

        Raises:
            InvalidInput: a name, a scope, a limit or the time cannot be used.
            Conflict: code `key_exists`, the tenant has a key of that name that is not revoked.
        """
        now = self._clock.now()
        _check(principal, scopes, expires_at, limits or KeyLimits(), now)
        text = new_key_text()
        values = {
            "id": text.id,
            "tenant": require_name("a tenant", tenant),
            "principal": principal,
            "scopes": [scope for scope in SCOPES if scope in scopes],
            "limits": to_json(limits or KeyLimits()),
            "secret_hash": digest(text.secret),
            "created_at": now,
            "expires_at": expires_at,
        }

        def operation(connection: Connection) -> KeyRecord:
            try:
                connection.execute(insert(api_keys).values(values))
            except IntegrityError:
                raise Conflict(
                    f"there is a key named {principal!r}",
                    fix="rotate it, or revoke it first",
                    code="key_exists",
                ) from None
            return _get(connection, text.id)

        return NewKey(await self._write(operation), str(text))

    async def list(
        self, tenant: Tenant | None = None, limit: int = 1000, offset: int = 0
    ) -> Sequence[KeyRecord]:
        """Keys of a tenant, or of all of them, the newest first; revoked ones too."""
        require_page(limit, offset)
        query = select(api_keys).order_by(api_keys.c.created_at.desc(), api_keys.c.id)
        if tenant is not None:
            query = query.where(api_keys.c.tenant == tenant)
        page = query.limit(limit).offset(offset)
        return await self._read(lambda c: [_record(row) for row in c.execute(page)])

    async def get(self, key: str) -> KeyRecord:
        return await self._read(lambda c: _get(c, key))

    async def any(self) -> bool:
        """Whether there is a key at all, also an expired or a revoked one: then everybody is asked for one."""
        query = select(api_keys.c.id).limit(1)
        return await self._read(lambda c: c.execute(query).first() is not None)

    async def rotate(self, key: str, grace_s: float = DAY_S) -> NewKey:
        """A new secret for a key; the old one holds for `grace_s` seconds more.

        Raises:
            InvalidInput: the grace time is negative.
            Conflict: code `key_revoked`.
        """
        if not 0 <= grace_s < math.inf:
            raise InvalidInput("the grace time is negative or endless", fix="give seconds, 0 for none")
        now = self._clock.now()
        text = new_key_text(key)

        def change(old: Row[Any]) -> Mapping[str, Any]:
            _require_not_revoked(old)
            return {
                "secret_hash": digest(text.secret),
                "old_hash": old.secret_hash if grace_s else None,
                "rotated_until": now + grace_s if grace_s else None,
            }

        return NewKey(await self._change(key, change), str(text))

    async def revoke(self, key: str) -> KeyRecord:
        """It holds no more, for ever. Done twice it is the same."""
        now = self._clock.now()

        def change(old: Row[Any]) -> Mapping[str, Any]:
            return {"revoked_at": now, "old_hash": None} if old.revoked_at is None else {}

        return await self._change(key, change)

    async def expire(self, key: str, at: float | None) -> KeyRecord:
        """It holds until then; None is for ever. Raises Conflict, code `key_revoked`."""

        def change(old: Row[Any]) -> Mapping[str, Any]:
            _require_not_revoked(old)
            return {"expires_at": at}

        return await self._change(key, change)

    async def forget(self, key: str) -> None:
        """Deletes a key as if it had never been. What went over its name stays counted."""

        def operation(connection: Connection) -> None:
            _get(connection, key)
            connection.execute(delete(api_keys).where(api_keys.c.id == key))

        await self._write(operation)

    async def find(self, key: str, meter: str = "") -> KeyOnFile | None:
        """What a gateway needs to let this key in, without what it has counted itself as `meter`."""
        now = self._clock.now()

        def query(connection: Connection) -> KeyOnFile | None:
            row = connection.execute(select(api_keys).where(api_keys.c.id == key)).one_or_none()
            if row is None:
                return None
            record = _record(row)
            found = KeyOnFile(record, row.secret_hash, row.old_hash)
            if not _has_budget(record.limits):
                # Adding up would be in vain.
                return found
            today, month = (
                spent_since(connection, record.tenant, record.principal, since, meter)
                for since in periods(now)
            )
            return dataclasses.replace(found, today=today, this_month=month)

        return await self._read(query)

    async def running(self, tenant: Tenant, principal: str) -> int:
        """Runs of a name that are at work or queue for it; those that wait for a person do not count."""
        return await self._read(lambda c: running(c, tenant, principal))

    async def usage(self, tenant: Tenant, principal: str) -> tuple[KeyUsage, KeyUsage]:
        """What went over a name today and this month."""
        day, month = periods(self._clock.now())
        return await self._read(
            lambda c: (usage_since(c, tenant, principal, day), usage_since(c, tenant, principal, month))
        )

    async def record(self, meter: str, meters: Sequence[Meter], used: Mapping[str, float]) -> None:
        """What a gateway has counted since it started, and when keys were last used. Twice is as once."""

        def operation(connection: Connection) -> None:
            count(connection, meter, meters)
            for key, at in used.items():
                later = api_keys.c.last_used_at.is_(None) | (api_keys.c.last_used_at < at)
                own = update(api_keys).where(api_keys.c.id == key, later)
                connection.execute(own.values(last_used_at=at))

        await self._write(operation)

    async def _change(self, key: str, change: Callable[[Row[Any]], Mapping[str, Any]]) -> KeyRecord:
        def operation(connection: Connection) -> KeyRecord:
            values = change(_row(connection, key, locked=True))
            if values:
                connection.execute(update(api_keys).where(api_keys.c.id == key).values(**values))
            return _get(connection, key)

        return await self._write(operation)


def periods(now: float) -> tuple[float, float]:
    """When this day and this month began, in UTC."""
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day.timestamp(), day.replace(day=1).timestamp()


def any_key(connection: Connection) -> bool:
    """Whether a journal has a key that is not revoked; one of an older version has none."""
    if not connection.dialect.has_table(connection, api_keys.name):
        return False
    kept = select(api_keys.c.id).where(api_keys.c.revoked_at.is_(None)).limit(1)
    return connection.execute(kept).first() is not None


def _check(
    principal: str, scopes: Sequence[str], expires_at: float | None, limits: KeyLimits, now: float
) -> None:
    if require_name("a key's name", principal) == NOBODY:
        raise InvalidInput(f"{NOBODY!r} is who comes without a key", fix="choose another name")
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise InvalidInput(
            f"there is no scope {unknown[0]!r}" if unknown else "a key needs a scope",
            fix=f"of {', '.join(SCOPES)}",
        )
    if expires_at is not None and not now < expires_at < math.inf:
        raise InvalidInput("the key would have expired already", fix="give a time in the future")
    for name, value in to_json(limits).items():
        least: float = 0 if name.startswith("money") else 1
        if value is not None and not least <= value < 1 << 53:
            raise InvalidInput(f"{name} cannot be {value!r}", fix="leave it out for no limit")


def _has_budget(limits: KeyLimits) -> bool:
    budget = (limits.tokens_per_day, limits.tokens_per_month, limits.money_per_day, limits.money_per_month)
    return any(limit is not None for limit in budget)


def _get(connection: Connection, key: str) -> KeyRecord:
    return _record(_row(connection, key))


def _row(connection: Connection, key: str, *, locked: bool = False) -> Row[Any]:
    query = select(api_keys).where(api_keys.c.id == plain_id(key, _not_found))
    row = connection.execute(query.with_for_update() if locked else query).one_or_none()
    if row is None:
        raise _not_found(key)
    return row


def _require_not_revoked(row: Row[Any]) -> None:
    if row.revoked_at is not None:
        raise Conflict(f"key {row.id} is revoked", fix="make a new one", code="key_revoked")


def _not_found(key: str) -> NotFound:
    return NotFound(f"there is no key {key!r}", fix="manta keys list")


def _record(row: Row[Any]) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        tenant=row.tenant,
        principal=row.principal,
        scopes=tuple(row.scopes),
        limits=from_json(KeyLimits, row.limits),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        rotated_until=row.rotated_until,
        last_used_at=row.last_used_at,
    )
