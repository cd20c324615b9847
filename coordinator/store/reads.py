"""What is read from the journal. Every query of one run names its tenant, or finds it by the run's id."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, Table, exists, func, select

from coordinator.store.records import RunRecord, StepCall, StepRecord
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


def get_run(connection: Connection, tenant: str, run_id: str) -> RunRecord:
    query = run_query().where(runs.c.tenant == tenant, runs.c.id == plain(run_id))
    row = connection.execute(query).one_or_none()
    if row is None:
        raise run_not_found(run_id)
    return run_record(row)


def run_state(connection: Connection, tenant: str, run_id: str) -> tuple[str, int]:
    """Status and last event number, without the run's graph, input and output."""
    query = select(runs.c.status, runs.c.last_seq).where(runs.c.tenant == tenant, runs.c.id == plain(run_id))
    row = connection.execute(query).one_or_none()
    if row is None:
        raise run_not_found(run_id)
    return row.status, row.last_seq


def list_runs(
    connection: Connection,
    tenant: str,
    status: str | Sequence[str] | None,
    graph: str | None,
    metadata: Mapping[str, Any] | None,
    limit: int,
    offset: int,
) -> list[RunRecord]:
    query = run_query().where(runs.c.tenant == tenant)
    if status is not None:
        wanted = (status,) if isinstance(status, str) else tuple(status)
        query = query.where(runs.c.status.in_(wanted))
    if graph is not None:
        query = query.where(runs.c.graph_name == graph)
    for key, value in (metadata or {}).items():
        own = (run_labels.c.tenant == runs.c.tenant) & (run_labels.c.run_id == runs.c.id)
        query = query.where(exists().where(own, run_labels.c.label == label(key, value)))
    page = query.order_by(runs.c.number.desc()).limit(limit).offset(offset)
    return [run_record(row) for row in connection.execute(page)]


def unfinished(connection: Connection) -> list[RunRecord]:
    query = run_query().where(runs.c.status.in_(("pending", "running"))).order_by(runs.c.number)
    return [run_record(row) for row in connection.execute(query)]


def read_events(connection: Connection, run_id: str, after: int, limit: int) -> list[Event]:
    query = _rows_of(events, run_id).where(events.c.seq > after).order_by(events.c.seq).limit(limit)
    return [
        Event(row.run_id, row.seq, row.type, row.at, row.step, row.data) for row in connection.execute(query)
    ]


def read_steps(connection: Connection, run_id: str) -> list[StepRecord]:
    query = _rows_of(steps, run_id).order_by(steps.c.number)
    return [step_record(row) for row in connection.execute(query)]


def read_calls(connection: Connection, run_id: str) -> list[StepCall]:
    query = _rows_of(calls, run_id).order_by(calls.c.number)
    return [StepCall(row.step, row.attempt, recorded_call(row)) for row in connection.execute(query)]


def read_usage(connection: Connection, run_id: str) -> Usage:
    sums = [func.sum(calls.c[name]).label(name) for name in USAGE_FIELDS]
    query = select(*sums).where(calls.c.run_id == plain(run_id), calls.c.tenant == _tenant_of(run_id))
    return usage_of(connection.execute(query).one()._mapping)


def _rows_of(table: Table, run_id: str) -> Select[Any]:
    return select(table).where(table.c.tenant == _tenant_of(run_id), table.c.run_id == plain(run_id))


def _tenant_of(run_id: str) -> Any:
    return select(runs.c.tenant).where(runs.c.id == plain(run_id)).scalar_subquery()
