"""The record of model and tool calls: intent before, outcome after, refused from whoever was fenced."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Update, and_, bindparam, null, select, update

from coordinator.store.budgets import require_within, reserved_values
from coordinator.store.bulk import Bulk, inserted, text_of
from coordinator.store.records import CallSettled, StepChange
from coordinator.store.rows import (
    SMALL_COLUMNS,
    plain,
    recorded_call,
    require_epoch,
    run_not_found,
    usage_of,
    usage_values,
)
from coordinator.store.schema import RESERVED_FIELDS, USAGE_FIELDS, calls, runs, steps
from manta.errors import Conflict, OutcomeUnknown, StaleEpoch, error_from_json
from manta.messages import CallIntent, CallOutcome, CallScope, RecordedCall, Usage

_NO_USAGE = usage_values(Usage())
_NOTHING_RESERVED = dict.fromkeys(RESERVED_FIELDS, 0)
_COUNTED = (*(runs.c[name] for name in USAGE_FIELDS), *(runs.c[name] for name in RESERVED_FIELDS))
_ITS_STEP = and_(
    steps.c.tenant == runs.c.tenant, steps.c.run_id == runs.c.id, steps.c.key == bindparam("of_step")
)
# Nobody else writes the steps and calls of a run that is ours: its row is the only one to be locked.
_FENCED = (
    select(*SMALL_COLUMNS, *_COUNTED, steps.c.state, steps.c.attempt)
    .select_from(runs.outerjoin(steps, _ITS_STEP))
    .where(runs.c.id == bindparam("of_run"))
    .with_for_update(of=runs)
)
_OWN = (
    calls.c.tenant == bindparam("of_tenant"),
    calls.c.run_id == bindparam("of_run"),
    calls.c.step == bindparam("of_step"),
    calls.c.key == bindparam("of_key"),
)
_FIND = select(calls).where(*_OWN)
_BEGUN = (
    *("kind", "name", "request_hash", "request", "idempotent", "state", "epoch", "attempt"),
    *("response", "error", "notes", "begun_at", "finished_at", *RESERVED_FIELDS),
)
_ENDED = ("state", "response", "error", "notes", "finished_at", *USAGE_FIELDS, *RESERVED_FIELDS)
_ADDED = ("open_calls", "last_entry", *USAGE_FIELDS, *RESERVED_FIELDS)


def _update_call(columns: Sequence[str]) -> Update:
    return (
        update(calls).where(*_OWN).values({n: bindparam(f"new_{n}", type_=calls.c[n].type) for n in columns})
    )


_WRITE = Bulk(lambda kind: inserted(kind, calls))
_BEGIN_AGAIN = Bulk(lambda _: _update_call(_BEGUN))
_END = Bulk(lambda _: _update_call(_ENDED))
_COUNT = Bulk(
    lambda _: (
        update(runs)
        .where(runs.c.number == bindparam("of"))
        .values({name: runs.c[name] + bindparam(f"more_{name}") for name in _ADDED})
    )
)
_NOTHING_ADDED = {f"more_{name}": 0 for name in _ADDED}


def begin_call(connection: Connection, intent: CallIntent, now: float) -> RecordedCall | None:
    """Writes the intent, or returns the call when its outcome is known and stands.

    An intent that is repeated by the same attempt (its answer was lost on the way) is let through: the
    call has not been made yet.
    """
    run = _fenced(connection, intent.scope)
    place = _place(intent.scope, intent.key)
    row = connection.execute(_FIND, place).one_or_none()
    if row is not None and row.state == "done" and not _worth_repeating(row, intent):
        return recorded_call(row)
    if row is not None and row.state == "unknown" and not (row.idempotent and intent.idempotent):
        raise OutcomeUnknown(
            f"{intent.kind} {intent.name!r} in step {intent.scope.step} was begun and its process died",
            fix="find out whether it took effect; it is not repeated by itself",
        )
    held: Mapping[Any, int] = _NOTHING_RESERVED if row is None else row._mapping
    require_within(connection, run, intent, held)
    reserved = reserved_values(intent.reserve)
    values = {**_intent_values(intent, now), **reserved}
    if row is None:
        identity = {"tenant": run.tenant, "run_id": run.id, "step": intent.scope.step, "key": intent.key}
        fixed = {**identity, "number": run.last_entry + 1, **_NO_USAGE}
        _WRITE.run(connection, [{**fixed, **values}])
    else:
        # What earlier tries have used stays counted.
        _BEGIN_AGAIN.run(connection, [{**place, **_new(values)}])
    added = {name: reserved[name] - held[name] for name in RESERVED_FIELDS}
    added["open_calls"] = 0 if row is not None and row.state == "intent" else 1
    added["last_entry"] = 1 if row is None else 0
    _count(connection, run, added)
    return None


def finish_call(connection: Connection, outcome: CallOutcome, now: float) -> None:
    """Writes the outcome and adds its usage to the run's. A call that is done stays as it is."""
    run = _fenced(connection, outcome.scope)
    place = _place(outcome.scope, outcome.key)
    row = connection.execute(_FIND, place).one_or_none()
    if row is None or row.state in ("unknown", "cleared"):
        raise Conflict(
            f"call {outcome.key!r} of step {outcome.scope.step} was not begun", fix="journal the intent first"
        )
    if row.state == "done":
        return
    values = {
        "state": "done",
        "response": text_of(outcome.response),
        "error": text_of(outcome.error),
        "notes": text_of(outcome.notes),
        "finished_at": now,
        **usage_values(usage_of(row._mapping) + outcome.usage),
        **_NOTHING_RESERVED,
    }
    _END.run(connection, [{**place, **_new(values)}])
    freed = {name: -row._mapping[name] for name in RESERVED_FIELDS}
    _count(connection, run, {"open_calls": -1, **freed, **usage_values(outcome.usage)})


def give_up(connection: Connection, run: Row[Any], change: StepChange) -> None:
    """What the step had begun before this change of it is of unknown outcome now, and reserves nothing more."""
    left = [
        calls.c.tenant == run.tenant,
        calls.c.run_id == run.id,
        calls.c.step == change.key,
        calls.c.state == "intent",
    ]
    if change.state == "started":
        left.append(calls.c.attempt != change.attempt)
    rows = connection.execute(select(*(calls.c[name] for name in RESERVED_FIELDS)).where(*left)).all()
    if rows:
        connection.execute(update(calls).where(*left).values(state="unknown", **_NOTHING_RESERVED))
        freed = {name: -sum(row._mapping[name] for row in rows) for name in RESERVED_FIELDS}
        _count(connection, run, {"open_calls": -len(rows), **freed})


def give_up_all(connection: Connection, run: Row[Any]) -> None:
    """The same for the whole run, whoever had begun them. The run's own counters are the caller's to clear."""
    left = (calls.c.tenant == run.tenant, calls.c.run_id == run.id, calls.c.state == "intent")
    connection.execute(update(calls).where(*left).values(state="unknown", **_NOTHING_RESERVED))


def settle(connection: Connection, run: Row[Any], change: CallSettled, now: float) -> None:
    """Puts a person's word in the place of an outcome; the step that waited for it counts as at work again.

    Who takes up the run after a crash then runs the step, instead of asking the person once more.

    Raises:
        Conflict: the outcome is not unknown.
    """
    place = {"of_tenant": run.tenant, "of_run": run.id, "of_step": change.step, "of_key": change.key}
    if change.response is None:
        values: dict[str, Any] = {"state": "cleared"}
    else:
        values = {"state": "done", "response": change.response, "error": None, "finished_at": now}
    unknown = update(calls).where(*_OWN, calls.c.state == "unknown").values(values)
    if connection.execute(unknown, place).rowcount != 1:
        raise Conflict(
            f"the outcome of call {change.key!r} of step {change.step} is not unknown",
            fix="look at the run's calls",
        )
    own = (steps.c.tenant == run.tenant, steps.c.run_id == run.id, steps.c.key == change.step)
    connection.execute(
        update(steps).where(*own, steps.c.state == "waiting").values(state="started", waiting=None)
    )


def clear_failed(connection: Connection, run: Row[Any]) -> None:
    """In steps that did not get done, what failed or is of unknown outcome may be made again, if it may at all."""
    own = (steps.c.tenant == run.tenant, steps.c.run_id == run.id)
    undone = select(steps.c.key).where(*own, steps.c.state.not_in(("done", "skipped")))
    failed = (calls.c.state == "done") & calls.c.error.is_not(null())
    connection.execute(
        update(calls)
        .where(calls.c.tenant == run.tenant, calls.c.run_id == run.id, calls.c.step.in_(undone))
        .where(calls.c.idempotent, failed | (calls.c.state == "unknown"))
        .values(state="cleared", response=None, error=None)
    )


def _fenced(connection: Connection, scope: CallScope) -> Row[Any]:
    """The locked run, if `scope` is the attempt that its step is at."""
    own = {"of_run": plain(scope.run), "of_step": scope.step}
    run = connection.execute(_FENCED, own).one_or_none()
    if run is None or run.tenant != scope.tenant:
        raise run_not_found(scope.run)
    require_epoch(run, scope.epoch)
    current = run.state == "started" and run.attempt == scope.attempt
    if run.status != "running" or not current:
        raise StaleEpoch(
            f"attempt {scope.attempt} of step {scope.step} in run {run.id} is not the one at work",
            fix="stop this attempt: the step has ended or was given to another",
        )
    return run


def _place(scope: CallScope, key: str) -> dict[str, str]:
    return {"of_tenant": scope.tenant, "of_run": scope.run, "of_step": scope.step, "of_key": key}


def _count(connection: Connection, run: Row[Any], added: Mapping[str, int]) -> None:
    """Adds to the run's counters."""
    named = {f"more_{name}": amount for name, amount in added.items()}
    _COUNT.run(connection, [{"of": run.number, **_NOTHING_ADDED, **named}])


def _new(values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"new_{name}": value for name, value in values.items()}


def _intent_values(intent: CallIntent, now: float) -> dict[str, Any]:
    return {
        "kind": intent.kind,
        "name": intent.name,
        "request_hash": intent.request_hash,
        "request": text_of(intent.request),
        "idempotent": intent.idempotent,
        "state": "intent",
        "epoch": intent.scope.epoch,
        "attempt": intent.scope.attempt,
        "response": None,
        "error": None,
        "notes": None,
        "begun_at": now,
        "finished_at": None,
    }


def _worth_repeating(row: Row[Any], intent: CallIntent) -> bool:
    """A passing failure of an earlier attempt: replaying it would make every retry of the step fail alike."""
    if row.error is None or not (row.idempotent and intent.idempotent):
        return False
    earlier = (row.epoch, row.attempt) != (intent.scope.epoch, intent.scope.attempt)
    return earlier and error_from_json(row.error).retryable
