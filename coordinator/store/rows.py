"""Between rows and records, and the lock on a run that every change of it takes first."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from coordinator.store.records import RunRecord, StepRecord
from coordinator.store.schema import USAGE_FIELDS, run_inputs, runs
from manta.errors import InvalidInput, NotFound, StaleEpoch
from manta.messages import RecordedCall, Usage

_NAME_LIMIT = 255
_RUN_FIELDS = tuple(f.name for f in dataclasses.fields(RunRecord) if f.name != "usage")
_LOCKED = (runs.c.tenant, runs.c.id, runs.c.status, runs.c.epoch, runs.c.last_seq, runs.c.last_entry)


def lock_run(connection: Connection, run_id: str) -> Row[Any]:
    """The run's small columns, held against other processes until the transaction ends. Raises NotFound."""
    row = connection.execute(
        select(*_LOCKED).where(runs.c.id == plain(run_id)).with_for_update()
    ).one_or_none()
    if row is None:
        raise run_not_found(run_id)
    return row


def require_epoch(run: Row[Any], epoch: int) -> None:
    """Raises StaleEpoch unless `epoch` is that of the run's latest claim."""
    if epoch < 1 or run.epoch != epoch:
        raise StaleEpoch(
            f"run {run.id} is at epoch {run.epoch}, the write is of epoch {epoch}",
            fix="stop working on this run: another coordinator has claimed it",
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
    together = runs.join(
        run_inputs, (run_inputs.c.tenant == runs.c.tenant) & (run_inputs.c.run_id == runs.c.id)
    )
    return select(runs, run_inputs.c.graph, run_inputs.c.input, run_inputs.c.metadata).select_from(together)


def run_record(row: Row[Any]) -> RunRecord:
    found = row._mapping
    return RunRecord(**{name: found[name] for name in _RUN_FIELDS}, usage=usage_of(found))


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
    )


def recorded_call(row: Row[Any]) -> RecordedCall:
    return RecordedCall(
        key=row.key,
        kind=row.kind,
        name=row.name,
        request_hash=row.request_hash,
        state=row.state,
        response=row.response,
        error=row.error,
        usage=usage_of(row._mapping),
    )


def usage_of(row: Mapping[Any, Any]) -> Usage:
    return Usage(**{name: int(row[name] or 0) for name in USAGE_FIELDS})


def usage_values(usage: Usage) -> dict[str, int]:
    return dataclasses.asdict(usage)


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
