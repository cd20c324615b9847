"""The record of model and tool calls: intent before, outcome after, refused from whoever was fenced."""

from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, select, update

from coordinator.store.records import TERMINAL_STATUSES
from coordinator.store.rows import (
    lock_run,
    recorded_call,
    require_epoch,
    run_not_found,
    usage_of,
    usage_values,
)
from coordinator.store.schema import USAGE_FIELDS, calls, runs, steps
from manta.errors import Conflict, OutcomeUnknown, StaleEpoch, error_from_json
from manta.messages import CallIntent, CallOutcome, CallScope, RecordedCall, Usage


def begin_call(connection: Connection, intent: CallIntent, now: float) -> RecordedCall | None:
    """Writes the intent, or returns the call when its outcome is known and stands.

    An intent that is repeated by the same attempt (its answer was lost on the way) is let through: the
    call has not been made yet.
    """
    run = _fenced(connection, intent.scope)
    own = _own(intent.scope, intent.key)
    row = connection.execute(select(calls).where(*own)).one_or_none()
    if row is not None and row.state == "done" and not _worth_repeating(row, intent):
        return recorded_call(row)
    if row is not None and row.state == "unknown" and not (row.idempotent and intent.idempotent):
        raise OutcomeUnknown(
            f"{intent.kind} {intent.name!r} in step {intent.scope.step} was begun and its process died",
            fix="find out whether it took effect; it is not repeated by itself",
        )
    values = _intent_values(intent, now)
    if row is None:
        entry = run.last_entry + 1
        identity = {"tenant": run.tenant, "run_id": run.id, "step": intent.scope.step, "key": intent.key}
        connection.execute(insert(calls).values(**identity, number=entry, **values, **usage_values(Usage())))
        connection.execute(_run_row(run).values(last_entry=entry))
    else:
        # What earlier tries have used stays counted.
        connection.execute(update(calls).where(*own).values(**values))
    return None


def finish_call(connection: Connection, outcome: CallOutcome, now: float) -> None:
    """Writes the outcome and adds its usage to the run's. A call that is done stays as it is."""
    run = _fenced(connection, outcome.scope)
    own = _own(outcome.scope, outcome.key)
    row = connection.execute(select(calls).where(*own)).one_or_none()
    if row is None or row.state == "unknown":
        raise Conflict(
            f"call {outcome.key!r} of step {outcome.scope.step} was not begun", fix="journal the intent first"
        )
    if row.state == "done":
        return
    total = usage_of(row._mapping) + outcome.usage
    connection.execute(
        update(calls)
        .where(*own)
        .values(
            state="done",
            response=outcome.response,
            error=outcome.error,
            finished_at=now,
            **usage_values(total),
        )
    )
    added = usage_values(outcome.usage)
    connection.execute(_run_row(run).values({name: runs.c[name] + added[name] for name in USAGE_FIELDS}))


def _fenced(connection: Connection, scope: CallScope) -> Row[Any]:
    """The locked run, if `scope` is the attempt that its step is at."""
    run = lock_run(connection, scope.run)
    if run.tenant != scope.tenant:
        raise run_not_found(scope.run)
    require_epoch(run, scope.epoch)
    step = connection.execute(
        select(steps.c.state, steps.c.attempt).where(
            steps.c.tenant == run.tenant, steps.c.run_id == run.id, steps.c.key == scope.step
        )
    ).one_or_none()
    current = step is not None and step.state == "started" and step.attempt == scope.attempt
    if run.status in TERMINAL_STATUSES or not current:
        raise StaleEpoch(
            f"attempt {scope.attempt} of step {scope.step} in run {run.id} is not the one at work",
            fix="stop this attempt: the step has ended or was given to another",
        )
    return run


def _own(scope: CallScope, key: str) -> tuple[ColumnElement[bool], ...]:
    return (
        calls.c.tenant == scope.tenant,
        calls.c.run_id == scope.run,
        calls.c.step == scope.step,
        calls.c.key == key,
    )


def _run_row(run: Row[Any]) -> Any:
    return update(runs).where(runs.c.tenant == run.tenant, runs.c.id == run.id)


def _intent_values(intent: CallIntent, now: float) -> dict[str, Any]:
    return {
        "kind": intent.kind,
        "name": intent.name,
        "request_hash": intent.request_hash,
        "request": intent.request,
        "idempotent": intent.idempotent,
        "state": "intent",
        "epoch": intent.scope.epoch,
        "attempt": intent.scope.attempt,
        "response": None,
        "error": None,
        "begun_at": now,
        "finished_at": None,
    }


def _worth_repeating(row: Row[Any], intent: CallIntent) -> bool:
    """A passing failure of an earlier attempt: replaying it would make every retry of the step fail alike."""
    if row.error is None or not (row.idempotent and intent.idempotent):
        return False
    earlier = (row.epoch, row.attempt) != (intent.scope.epoch, intent.scope.attempt)
    return earlier and error_from_json(row.error).retryable
