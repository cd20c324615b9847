"""What is read from the journal. Every query of one run names its tenant, or finds it by the run's id."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, Table, bindparam, exists, select

from coordinator.store.records import TERMINAL_STATUSES, RunRecord, StepCall, StepRecord
from coordinator.store.rows import (
    label,
    plain,
    recorded_call,
    run_not_found,
    run_query,
    run_record,
    step_record,
    usage_of,
)
from coordinator.store.schema import USAGE_FIELDS, calls, events, run_labels, runs, steps
from manta.events import Event
from manta.messages import Usage

_STATE = select(runs.c.status, runs.c.last_seq).where(
    runs.c.tenant == bindparam("of"), runs.c.id == bindparam("run")
)
_USAGE = select(*(runs.c[name] for name in USAGE_FIELDS)).where(runs.c.id == bindparam("run"))


def run_state(connection: Connection, tenant: str, run_id: str) -> tuple[str, int]:
    """Status and last event number, without the run's graph, input and output."""
    row = connection.execute(_STATE, {"of": tenant, "run": plain(run_id)}).one_or_none()
    if row is None:
        raise run_not_found(run_id)
    return row.status, row.last_seq


def list_runs(
    connection: Connection,
    tenant: str,
    status: str | Sequence[str] | None,
    graph: str | None,
    thread: str | None,
    reason: str | None,
    metadata: Mapping[str, Any] | None,
    asking: bool,
    limit: int,
    offset: int,
) -> list[RunRecord]:
    query = run_query().where(runs.c.tenant == tenant)
    if status is not None:
        wanted = (status,) if isinstance(status, str) else tuple(status)
        query = query.where(runs.c.status.in_(wanted))
    for column, value in ((runs.c.graph_name, graph), (runs.c.thread, thread), (runs.c.reason, reason)):
        if value is not None:
            query = query.where(column == value)
    for key, value in (metadata or {}).items():
        own = (run_labels.c.tenant == runs.c.tenant) & (run_labels.c.run_id == runs.c.id)
        query = query.where(exists().where(own, run_labels.c.label == label(key, value)))
    if asking:
        own = (steps.c.tenant == runs.c.tenant) & (steps.c.run_id == runs.c.id)
        # The status spares a look at the steps of all that is over.
        query = query.where(runs.c.status.not_in(TERMINAL_STATUSES))
        query = query.where(exists().where(own, steps.c.state == "waiting"))
    # Without the sum SQLite would look for a thread's few runs among all of the tenant's, in their order.
    order = runs.c.number if thread is None else runs.c.number + 0
    page = query.order_by(order.desc()).limit(limit).offset(offset)
    return [run_record(row) for row in connection.execute(page)]


def read_events(connection: Connection, run_id: str, after: int, limit: int) -> list[Event]:
    query = _rows_of(events, run_id).where(events.c.seq > after).order_by(events.c.seq).limit(limit)
    return [
        Event(row.run_id, row.seq, row.type, row.at, row.step, row.data) for row in connection.execute(query)
    ]


def read_steps(connection: Connection, run_id: str) -> list[StepRecord]:
    query = _rows_of(steps, run_id).order_by(steps.c.number)
    return [step_record(row) for row in connection.execute(query)]


def read_calls(connection: Connection, run_id: str, whole: bool) -> list[StepCall]:
    large = () if whole else (calls.c.request, calls.c.notes)
    columns = [column for column in calls.c if column not in large]
    query = _rows_of(calls, run_id).with_only_columns(*columns).order_by(calls.c.number)
    return [
        StepCall(row.step, row.attempt, recorded_call(row, whole=whole)) for row in connection.execute(query)
    ]


def read_usage(connection: Connection, run_id: str) -> Usage:
    row = connection.execute(_USAGE, {"run": plain(run_id)}).one_or_none()
    return Usage() if row is None else usage_of(row._mapping)


def _rows_of(table: Table, run_id: str) -> Select[Any]:
    return select(table).where(table.c.tenant == _tenant_of(run_id), table.c.run_id == plain(run_id))


def _tenant_of(run_id: str) -> Any:
    return select(runs.c.tenant).where(runs.c.id == plain(run_id)).scalar_subquery()
