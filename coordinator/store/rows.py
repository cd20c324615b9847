"""Between rows and records, and the lock on a run that every change of it takes first."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, Select, Text, bindparam, cast, select, text

from coordinator.store.records import TERMINAL_STATUSES, RunBrief, RunRecord, StepRecord
from coordinator.store.schema import USAGE_FIELDS, graphs, run_inputs, runs
from manta.errors import Conflict, InvalidInput, NotFound, StaleEpoch
from manta.messages import Budget, RecordedCall, Usage, from_json

_NAME_LIMIT = 255
_MADE_UP = ("usage", "budget", "graph", "overrides")
_RUN_FIELDS = tuple(f.name for f in dataclasses.fields(RunRecord) if f.name not in _MADE_UP)
_BRIEF_FIELDS = tuple(f.name for f in dataclasses.fields(RunBrief))
SMALL_COLUMNS = (
    *(runs.c.number, runs.c.tenant, runs.c.id, runs.c.status, runs.c.epoch, runs.c.owner),
    *(runs.c.last_seq, runs.c.last_entry, runs.c.open_calls, runs.c.open_decisions),
    *(runs.c.takeovers, runs.c.cancel_requested, runs.c.thread, runs.c.webhook),
)
"""What decides whether a run may be changed and how."""
# Built once: building a statement takes longer than running it.
_LOCK = select(*SMALL_COLUMNS).where(runs.c.id == bindparam("run")).with_for_update()
_LOCK_THREAD = text("SELECT pg_advisory_xact_lock(hashtextextended(:thread, 0))")


def lock_run(connection: Connection, run_id: str) -> Row[Any]:
    """The run's small columns, held against other processes until the transaction ends. Raises NotFound."""
    row = connection.execute(_LOCK, {"run": plain(run_id)}).one_or_none()
    if row is None:
        raise run_not_found(run_id)
    return row


def lock_run_of(connection: Connection, tenant: str, run_id: str) -> Row[Any]:
    """The same, for a caller that may only see runs of its tenant."""
    row = lock_run(connection, run_id)
    if row.tenant != tenant:
        raise run_not_found(run_id)
    return row


def lock_thread(connection: Connection, tenant: str, thread: str) -> None:
    """Until the transaction ends, no other process creates or claims runs of the thread."""
    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK_THREAD, {"thread": f"{tenant}/{thread}"})


def require_epoch(run: Row[Any], epoch: int) -> None:
    """Raises StaleEpoch unless `epoch` is that of the run's latest claim."""
    if epoch < 1 or run.epoch != epoch:
        raise StaleEpoch(
            f"run {run.id} is at epoch {run.epoch}, the write is of epoch {epoch}",
            fix="stop working on this run: another coordinator has claimed it",
        )


def require_open(run: Row[Any]) -> None:
    """Raises Conflict, code `run_terminal`, for a run that is finished."""
    if run.status in TERMINAL_STATUSES:
        raise Conflict(f"run {run.id} is finished ({run.status})", fix="start a new run", code="run_terminal")


def require_at_work(run: Row[Any]) -> None:
    """Raises StaleEpoch unless somebody works on the run."""
    if run.status != "running":
        raise StaleEpoch(
            f"nobody works on run {run.id}: it is {run.status}", fix="claim the run before writing to it"
        )


def run_not_found(run_id: str) -> NotFound:
    return NotFound(f"there is no run {run_id!r}", fix="list the runs of this key")


def plain(run_id: str) -> str:
    """The id, if it can be one at all: PostgreSQL refuses some text as a parameter. Raises NotFound."""
    if len(run_id) > _NAME_LIMIT or not run_id.isascii() or not run_id.isprintable():
        raise run_not_found(run_id[:_NAME_LIMIT])
    return run_id


def require_name(what: str, value: str) -> str:
    """Raises InvalidInput for text that is no name: empty, long, or with control characters."""
    if not value or len(value) > _NAME_LIMIT or not value.isprintable():
        raise InvalidInput(
            f"{what} must have 1 to {_NAME_LIMIT} printable characters", fix="use a shorter, plain value"
        )
    return value


def run_query() -> Select[Any]:
    own = (run_inputs.c.tenant == runs.c.tenant) & (run_inputs.c.run_id == runs.c.id)
    its = (graphs.c.tenant == runs.c.tenant) & (graphs.c.version == runs.c.graph_version)
    inputs = (run_inputs.c.input, run_inputs.c.metadata, run_inputs.c.overrides)
    together = runs.join(run_inputs, own).join(graphs, its)
    return select(runs, *inputs, cast(graphs.c.content, Text).label("graph")).select_from(together)


_ONE_RUN = run_query().where(runs.c.tenant == bindparam("of"), runs.c.id == bindparam("run"))


def find_run(connection: Connection, tenant: str, run_id: str) -> RunRecord | None:
    row = connection.execute(_ONE_RUN, {"of": tenant, "run": plain(run_id)}).one_or_none()
    return None if row is None else run_record(row)


def read_run(connection: Connection, tenant: str, run_id: str) -> RunRecord:
    """Raises NotFound."""
    record = find_run(connection, tenant, run_id)
    if record is None:
        raise run_not_found(run_id)
    return record


def run_record(row: Row[Any]) -> RunRecord:
    found = row._mapping
    return RunRecord(
        **{name: found[name] for name in _RUN_FIELDS},
        usage=usage_of(found),
        budget=None if row.budget is None else from_json(Budget, row.budget),
        graph=parsed_graph(row.graph),
        overrides=row.overrides or {},
    )


@functools.lru_cache(maxsize=256)
def parsed_graph(content: str) -> dict[str, Any]:
    """Records of runs of one graph share it: nobody changes a record."""
    graph: dict[str, Any] = json.loads(content)
    return graph


def brief_query() -> Select[Any]:
    return select(*(runs.c[name] for name in _BRIEF_FIELDS))


def run_brief(row: Row[Any]) -> RunBrief:
    return RunBrief(*row)


def step_record(row: Row[Any]) -> StepRecord:
    return StepRecord(
        key=row.key,
        step=row.step,
        index=row.item,
        state=row.state,
        attempt=row.attempt,
        agent=row.agent,
        input=row.input,
        output=row.output,
        error=row.error,
        usage=usage_of(row._mapping),
        started_at=row.started_at,
        finished_at=row.finished_at,
        waiting=row.waiting,
        notes=row.notes,
    )


def recorded_call(row: Row[Any], *, whole: bool = False) -> RecordedCall:
    return RecordedCall(
        key=row.key,
        kind=row.kind,
        name=row.name,
        request_hash=row.request_hash,
        state=row.state,
        response=row.response,
        error=row.error,
        usage=usage_of(row._mapping),
        request=row.request if whole else None,
        notes=row.notes if whole else None,
    )


def usage_of(row: Mapping[Any, Any]) -> Usage:
    return Usage(*(int(row[name] or 0) for name in USAGE_FIELDS))


def usage_values(usage: Usage) -> dict[str, int]:
    return {name: getattr(usage, name) for name in USAGE_FIELDS}


def label(key: str, value: Any) -> str:
    """The hash of one metadata entry; equal JSON values have equal labels, whatever the order of their keys.

    Raises:
        InvalidInput: the value is not plain JSON.
    """
    try:
        entry = json.dumps([key, value], sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"metadata {key!r} is not plain JSON: {error}", fix="send plain JSON values"
        ) from error
    return hashlib.sha256(entry.encode()).hexdigest()
