"""The outbox of webhooks: queued in the transaction that ends a run, so that none is lost."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection, Row, func, insert, select, update

from coordinator.store.library_records import WebhookRecord
from coordinator.store.library_schema import webhooks
from coordinator.store.room import Room, new_id
from coordinator.store.rows import plain
from coordinator.store.schema import runs
from manta.ids import RunId, Tenant

LEASE_S = 60.0
"""Seconds until a delivery that was begun and of which nothing was heard is due again: its process died."""


class Webhooks(Room):
    """Deliveries are taken with a lease, so several coordinators share the work. Ids are the messages'."""

    async def due(
        self, now: float, limit: int, per_host: int, busy: Collection[str] = ()
    ) -> Sequence[WebhookRecord]:
        """Takes what is due, the longest overdue first: at most `per_host` for each host, none for `busy` ones."""
        return await self._write(lambda c: _take(c, now, limit, per_host, busy))

    async def next_due(self) -> float | None:
        """When the next one is due; None when none is on its way."""
        query = select(webhooks.c.next_at).where(webhooks.c.next_at.is_not(None))
        return await self._read(lambda c: c.execute(query.order_by(webhooks.c.next_at).limit(1)).scalar())

    async def delivered(self, id: str) -> None:
        await self._set(id, state="delivered", next_at=None, error=None)

    async def failed(self, id: str, error: Mapping[str, Any], next_at: float | None) -> None:
        """A try failed; the next one comes at `next_at`, None gives up."""
        await self._set(
            id, state="pending" if next_at is not None else "failed", next_at=next_at, error=dict(error)
        )

    async def list(self, tenant: Tenant, run: RunId) -> Sequence[WebhookRecord]:
        """A run's messages, the oldest first; none for a run that does not exist."""
        own = (webhooks.c.tenant == tenant, webhooks.c.run_id == plain(run))
        query = select(webhooks).where(*own).order_by(webhooks.c.number)
        return await self._read(lambda c: [_record(row) for row in c.execute(query)])

    async def _set(self, id: str, **values: Any) -> None:
        # One that was delivered stays so, whatever a second, slower delivery says.
        own = update(webhooks).where(webhooks.c.id == id, webhooks.c.state != "delivered")
        now = self._clock.now()
        await self._write(lambda c: c.execute(own.values(updated_at=now, **values)).close())


def enqueue(connection: Connection, tenant: str, run_id: str, now: float) -> None:
    """Queues the run's webhook, if it has one, in the transaction that ends the run."""
    query = select(runs.c.webhook).where(runs.c.tenant == tenant, runs.c.id == run_id)
    url = connection.execute(query).scalar_one()
    if url is None:
        return
    own = (webhooks.c.tenant == tenant, webhooks.c.run_id == run_id)
    last = connection.execute(select(func.max(webhooks.c.number)).where(*own)).scalar() or 0
    connection.execute(
        insert(webhooks).values(
            number=last + 1,
            # Not the run's: one that is resumed ends again, and says so by another message.
            id=f"msg_{new_id()}",
            tenant=tenant,
            run_id=run_id,
            url=url,
            host=host_of(url),
            state="pending",
            attempts=0,
            next_at=now,
            created_at=now,
            updated_at=now,
        )
    )


def host_of(url: str) -> str:
    """The host's name in lower case; empty when there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _take(
    connection: Connection, now: float, limit: int, per_host: int, busy: Collection[str]
) -> list[WebhookRecord]:
    place = func.row_number().over(partition_by=webhooks.c.host, order_by=webhooks.c.next_at)
    waiting = select(webhooks.c.id, webhooks.c.next_at, place.label("place")).where(
        webhooks.c.next_at <= now, webhooks.c.host.not_in(list(busy))
    )
    fair = waiting.subquery()
    ids = select(fair.c.id).where(fair.c.place <= per_host).order_by(fair.c.next_at).limit(limit)
    # What another coordinator has just taken is passed over, also when it has let go of its lock already.
    free = select(webhooks).where(webhooks.c.id.in_(ids), webhooks.c.next_at <= now)
    rows = connection.execute(free.order_by(webhooks.c.next_at).with_for_update(skip_locked=True)).all()
    if rows:
        taken = update(webhooks).where(webhooks.c.id.in_([row.id for row in rows]))
        connection.execute(
            taken.values(attempts=webhooks.c.attempts + 1, next_at=now + LEASE_S, updated_at=now)
        )
    return [_record(row, begun=1) for row in rows]


def _record(row: Row[Any], *, begun: int = 0) -> WebhookRecord:
    return WebhookRecord(
        id=row.id,
        tenant=row.tenant,
        run=row.run_id,
        url=row.url,
        host=row.host,
        state=row.state,
        attempts=row.attempts + begun,
        next_at=row.next_at,
        error=row.error,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
