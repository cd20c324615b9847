"""Schedules: graphs to be run at the times of a cron expression."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, case, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from coordinator.schedules import next_time, normalised
from coordinator.store.library_records import ScheduleRecord
from coordinator.store.library_schema import schedules
from coordinator.store.requests import used_otherwise
from coordinator.store.room import Room, encoded, new_id, plain_id, require_object, require_page
from coordinator.store.rows import require_name
from manta.errors import NotFound
from manta.ids import RunId, Tenant


class Schedules(Room):
    """Every method with a schedule's id raises NotFound for one that the tenant does not have."""

    async def create(
        self,
        tenant: Tenant,
        principal: str,
        graph: str,
        input: Any,
        cron: str,
        timezone: str = "UTC",
        metadata: Mapping[str, Any] | None = None,
        enabled: bool = True,
        schedule: str | None = None,
    ) -> ScheduleRecord:
        """A schedule whose first run is at the next time of `cron` in `timezone`, an IANA name.

        `schedule`: an id of the caller's own; one that is there already is given as it is.

        Raises:
            InvalidInput: no such cron expression or time zone, or a value that is not JSON.
            IdempotencyConflict: what is there under the id was made by another request.
        """
        now = self._clock.now()
        first = next_time(cron, timezone, now)
        encoded("the input", input)
        values = {
            "id": require_name("an id", schedule or new_id()),
            "tenant": tenant,
            "principal": require_name("principal", principal),
            "graph_name": require_name("a graph", graph),
            "input": input,
            "cron": normalised(cron),
            "timezone": timezone,
            "metadata": require_object("metadata", {} if metadata is None else metadata),
            "enabled": enabled,
            "next_at": first if enabled else None,
            "created_at": now,
            "updated_at": now,
        }

        def operation(connection: Connection) -> ScheduleRecord:
            kind = sqlite if connection.dialect.name == "sqlite" else postgresql
            added = kind.insert(schedules).values(values).on_conflict_do_nothing()
            new = connection.execute(added.returning(schedules.c.id)).first() is not None
            there = _get(connection, tenant, str(values["id"]))
            return there if new else _same(there, values)

        return await self._write(operation)

    async def get(self, tenant: Tenant, schedule: str) -> ScheduleRecord:
        return await self._read(lambda c: _get(c, tenant, schedule))

    async def list(
        self, tenant: Tenant, graph: str | None = None, limit: int = 100, offset: int = 0
    ) -> Sequence[ScheduleRecord]:
        """The newest first."""
        require_page(limit, offset)
        query = select(schedules).where(schedules.c.tenant == tenant)
        if graph is not None:
            query = query.where(schedules.c.graph_name == graph)
        page = query.order_by(schedules.c.number.desc()).limit(limit).offset(offset)
        return await self._read(lambda c: [_record(row) for row in c.execute(page)])

    async def patch(
        self,
        tenant: Tenant,
        schedule: str,
        enabled: bool | None = None,
        cron: str | None = None,
        input: Any = None,
        timezone: str | None = None,
    ) -> ScheduleRecord:
        """Changes what is not None. Its next time is counted from now: what it missed while disabled is gone.

        Raises:
            InvalidInput: as for `create`.
        """
        now = self._clock.now()

        def operation(connection: Connection) -> ScheduleRecord:
            old = _get(connection, tenant, schedule, lock=True)
            values: dict[str, Any] = {"updated_at": now}
            if input is not None:
                encoded("the input", input)
                values["input"] = input
            if (enabled, cron, timezone) != (None, None, None):
                values |= _timing(old, enabled, cron, timezone, now)
            connection.execute(update(schedules).where(*_own(tenant, schedule)).values(values))
            return _get(connection, tenant, schedule)

        return await self._write(operation)

    async def delete(self, tenant: Tenant, schedule: str) -> None:
        """Its runs stay."""

        def operation(connection: Connection) -> None:
            _get(connection, tenant, schedule, lock=True)
            connection.execute(delete(schedules).where(*_own(tenant, schedule)))

        await self._write(operation)

    async def due(self, now: float, limit: int = 100) -> Sequence[ScheduleRecord]:
        """Those of all tenants whose time has come, the longest overdue first."""
        query = select(schedules).where(schedules.c.next_at <= now).order_by(schedules.c.next_at).limit(limit)
        return await self._read(lambda c: [_record(row) for row in c.execute(query)])

    async def next_due(self) -> float | None:
        """When the next one is due; None when none is enabled."""
        query = select(schedules.c.next_at).where(schedules.c.next_at.is_not(None))
        return await self._read(lambda c: c.execute(query.order_by(schedules.c.next_at).limit(1)).scalar())

    async def fired(self, tenant: Tenant, schedule: str, at: float, next_at: float, run: RunId) -> None:
        """Its run of the time `at` is in the journal. One that was deleted or disabled meanwhile stays so."""
        values = {"last_at": at, "last_run": run, "last_error": None}
        await self._write(lambda c: _move_on(c, tenant, schedule, at, next_at, values))

    async def failed(
        self, tenant: Tenant, schedule: str, at: float, next_at: float | None, error: Mapping[str, Any]
    ) -> None:
        """Its time `at` came to no run, for this reason; it goes on with the next, if there is one."""
        values = {"last_at": at, "last_error": dict(error)}
        await self._write(lambda c: _move_on(c, tenant, schedule, at, next_at, values))


def _same(there: ScheduleRecord, asked: Mapping[str, Any]) -> ScheduleRecord:
    """What is there already, if this is how it was asked for. Raises IdempotencyConflict."""
    told: dict[str, Any] = {
        "principal": there.principal,
        "graph_name": there.graph,
        "metadata": there.metadata,
    }
    if there.updated_at == there.created_at:
        told |= {"input": there.input, "cron": there.cron, "timezone": there.timezone}
        told |= {"enabled": there.enabled}
    if any(asked[name] != value for name, value in told.items()):
        raise used_otherwise(there.id)
    return there


def _timing(
    old: ScheduleRecord, enabled: bool | None, cron: str | None, timezone: str | None, now: float
) -> dict[str, Any]:
    cron = old.cron if cron is None else normalised(cron)
    timezone = old.timezone if timezone is None else timezone
    # Also for a disabled one, so that a wrong expression is refused.
    first = next_time(cron, timezone, now)
    enabled = old.enabled if enabled is None else enabled
    return {
        "enabled": enabled,
        "cron": cron,
        "timezone": timezone,
        "next_at": first if enabled else None,
    }


def _move_on(
    connection: Connection,
    tenant: str,
    schedule: str,
    at: float,
    next_at: float | None,
    values: dict[str, Any],
) -> None:
    # Another coordinator may have been here with a later time.
    latest = or_(schedules.c.last_at.is_(None), schedules.c.last_at <= at)
    # One that was given another time meanwhile, or none, keeps it.
    was_due = case((schedules.c.next_at <= at, next_at), else_=schedules.c.next_at)
    own = update(schedules).where(*_own(tenant, schedule), latest)
    connection.execute(own.values(next_at=was_due, **values))


def _get(connection: Connection, tenant: str, schedule: str, *, lock: bool = False) -> ScheduleRecord:
    query = select(schedules).where(*_own(tenant, schedule))
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise _not_found(schedule)
    return _record(row)


def _own(tenant: str, schedule: str) -> tuple[ColumnElement[bool], ...]:
    return schedules.c.tenant == tenant, schedules.c.id == plain_id(schedule, _not_found)


def _not_found(schedule: str) -> NotFound:
    return NotFound(f"there is no schedule {schedule!r}", fix="list the schedules there are")


def _record(row: Row[Any]) -> ScheduleRecord:
    return ScheduleRecord(
        id=row.id,
        tenant=row.tenant,
        principal=row.principal,
        graph=row.graph_name,
        input=row.input,
        cron=row.cron,
        timezone=row.timezone,
        metadata=row.metadata,
        enabled=row.enabled,
        next_at=row.next_at,
        last_at=row.last_at,
        last_run=row.last_run,
        last_error=row.last_error,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
