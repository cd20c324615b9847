"""Which coordinator has which run: claims under a fencing epoch, leases, and what is there to be taken."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from coordinator.store.calls import give_up_all
from coordinator.store.records import RunBrief, RunFlags, RunRecord
from coordinator.store.rows import (
    brief_query,
    lock_run,
    lock_thread,
    read_run,
    require_name,
    require_open,
    run_brief,
)
from coordinator.store.schema import RESERVED_FIELDS, coordinators, runs
from manta.errors import Conflict

UNFINISHED = ("pending", "running", "waiting")
_AT_WORK = ("running", "waiting")
_CLAIM = (
    update(runs)
    .where(runs.c.number == bindparam("of"))
    .values(
        epoch=runs.c.epoch + 1,
        owner=bindparam("new_owner"),
        status="running",
        reason=None,
        wake_at=None,
        takeovers=runs.c.takeovers + bindparam("took_over"),
        open_calls=0,
        updated_at=bindparam("now"),
        **dict.fromkeys(RESERVED_FIELDS, 0),
    )
)


def claim(connection: Connection, run_id: str, owner: str, now: float, *, again: bool = False) -> RunRecord:
    """Gives the run to `owner` under the next epoch; what earlier epochs had begun is of unknown outcome."""
    run = lock_run(connection, run_id)
    require_open(run)
    _require_takeable(connection, run, owner, now)
    # One that was cancelled is claimed only to be ended, and waits for nobody.
    if run.thread is not None and not run.cancel_requested:
        lock_thread(connection, run.tenant, run.thread)
        require_turn(connection, run.tenant, run.thread, run.number)
    left_alone = run.status == "running" and run.owner is not None and not again
    named = {"new_owner": require_name("owner", owner)}
    connection.execute(_CLAIM, {"of": run.number, "took_over": int(left_alone), "now": now, **named})
    if run.open_calls:
        give_up_all(connection, run)
    return read_run(connection, run.tenant, run.id)


def _require_takeable(connection: Connection, run: Row[Any], owner: str, now: float) -> None:
    if run.status != "running" or run.owner in (None, owner):
        return
    lease = select(coordinators.c.lease_until).where(coordinators.c.name == run.owner)
    until = connection.execute(lease).scalar()
    if until is not None and until > now:
        raise Conflict(
            f"run {run.id} belongs to {run.owner}, which is alive", fix="leave it to it", code="run_owned"
        )


def require_turn(connection: Connection, tenant: str, thread: str, number: int | None) -> None:
    """Raises Conflict, code `thread_busy`, if another run of the thread is at work or comes first.

    Args:
        number: of the run whose turn it is to be; None is a run that does not exist yet.
    """
    query = select(runs.c.number, runs.c.id).where(
        runs.c.tenant == tenant, runs.c.thread == thread, runs.c.status.in_(UNFINISHED)
    )
    if number is not None:
        before = or_(runs.c.status.in_(_AT_WORK), runs.c.number < number)
        query = query.where(runs.c.number != number, before)
    busy = connection.execute(query).all()
    if busy:
        raise Conflict(
            f"run {min(busy).id} works on thread {thread} or is before this one",
            fix="wait until it is over",
            code="thread_busy",
        )


def renew(connection: Connection, owner: str, lease_until: float) -> None:
    """Writes down that `owner` is alive; a first time registers it.

    A lease that ends later than this new one was written by a clock that has been set back, or that is ahead:
    it is shortened, as its owner may be dead, and the living renew theirs.
    """
    kind = sqlite if connection.dialect.name == "sqlite" else postgresql
    lease = kind.insert(coordinators).values(name=require_name("owner", owner), lease_until=lease_until)
    connection.execute(
        lease.on_conflict_do_update(index_elements=["name"], set_={"lease_until": lease_until})
    )
    too_long = update(coordinators).where(coordinators.c.lease_until > lease_until)
    connection.execute(too_long.values(lease_until=lease_until))


def release(connection: Connection, owner: str) -> int:
    """Lets go of all runs of `owner` and of its lease; returns how many runs."""
    own = (runs.c.status == "running", runs.c.owner == owner)
    let_go = connection.execute(update(runs).where(*own).values(owner=None)).rowcount
    connection.execute(delete(coordinators).where(coordinators.c.name == owner))
    return let_go


def takeable(
    connection: Connection, owner: str, now: float, limit: int, *, own: bool = True
) -> list[RunBrief]:
    """Running runs that `owner` may claim, the oldest first."""
    lapsed = or_(coordinators.c.lease_until.is_(None), coordinators.c.lease_until <= now)
    others = or_(runs.c.owner.is_(None), lapsed) & (func.coalesce(runs.c.owner, "") != owner)
    free = or_(others, runs.c.owner == owner) if own else others
    joined = runs.outerjoin(coordinators, coordinators.c.name == runs.c.owner)
    query = brief_query().select_from(joined).where(runs.c.status == "running", free)
    return _briefs(connection, query.order_by(runs.c.number).limit(limit))


def queued(connection: Connection, after: int, limit: int) -> list[RunBrief]:
    """Pending runs with numbers over `after`, the oldest first."""
    query = brief_query().where(runs.c.status == "pending", runs.c.number > after)
    return _briefs(connection, query.order_by(runs.c.number).limit(limit))


def due(connection: Connection, now: float, limit: int) -> list[RunBrief]:
    """Waiting runs whose time has come, the longest overdue first."""
    query = brief_query().where(runs.c.wake_at <= now)
    return _briefs(connection, query.order_by(runs.c.wake_at, runs.c.number).limit(limit))


def flags(connection: Connection, owner: str) -> list[RunFlags]:
    """Runs of `owner` that somebody wants something of."""
    wanted = or_(runs.c.cancel_requested, runs.c.open_decisions > 0)
    query = select(runs.c.id, runs.c.tenant, runs.c.cancel_requested, runs.c.open_decisions)
    query = query.where(runs.c.status == "running", runs.c.owner == owner, wanted)
    return [RunFlags(*row) for row in connection.execute(query.order_by(runs.c.number))]


def backlog(connection: Connection) -> dict[str, int]:
    """How many runs there are in each unfinished status."""
    query = select(runs.c.status, func.count()).where(runs.c.status.in_(UNFINISHED)).group_by(runs.c.status)
    counts: dict[str, int] = {row[0]: row[1] for row in connection.execute(query)}
    return {status: counts.get(status, 0) for status in UNFINISHED}


def _briefs(connection: Connection, query: Any) -> list[RunBrief]:
    rows: Sequence[Row[Any]] = connection.execute(query).all()
    return [run_brief(row) for row in rows]
