"""What is written about runs and their steps: created, claimed, changed, asked to stop."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from coordinator.store.records import (
    TERMINAL_STATUSES,
    Change,
    EventDraft,
    NewRun,
    RunChange,
    RunRecord,
    StepChange,
)
from coordinator.store.rows import (
    label,
    lock_run,
    plain,
    require_epoch,
    require_name,
    run_not_found,
    run_query,
    run_record,
    usage_values,
)
from coordinator.store.schema import calls, events, run_inputs, run_labels, runs, steps
from manta.errors import Conflict, IdempotencyConflict, StaleEpoch
from manta.events import Event
from manta.ids import RunId
from manta.messages import Usage


def create_run(connection: Connection, new: NewRun, now: float) -> tuple[RunRecord, bool]:
    """Writes the run, unless the same request has been written before; the flag says which."""
    _require_names(new)
    existing = _same_request(connection, new)
    if existing is not None:
        return existing, False
    try:
        with connection.begin_nested():
            _insert_run(connection, new, now)
    except IntegrityError:
        # Another process was faster with the same key.
        existing = _same_request(connection, new)
        if existing is None:
            raise
        return existing, False
    return _read(connection, new.tenant, new.id), True


def claim(connection: Connection, run_id: str, owner: str, now: float) -> RunRecord:
    """Gives the run to `owner` under the next epoch; what earlier epochs had begun is of unknown outcome."""
    run = lock_run(connection, run_id)
    _require_open(run)
    epoch = run.epoch + 1
    connection.execute(
        update(runs)
        .where(runs.c.tenant == run.tenant, runs.c.id == run.id)
        .values(epoch=epoch, owner=require_name("owner", owner), status="running", updated_at=now)
    )
    connection.execute(
        update(calls)
        .where(calls.c.tenant == run.tenant, calls.c.run_id == run.id)
        .where(calls.c.state == "intent", calls.c.epoch < epoch)
        .values(state="unknown")
    )
    return _read(connection, run.tenant, run.id)


def request_cancel(connection: Connection, tenant: str, run_id: str, now: float) -> RunRecord:
    run = lock_run(connection, run_id)
    if run.tenant != tenant:
        raise run_not_found(run_id)
    _require_open(run)
    connection.execute(
        update(runs)
        .where(runs.c.tenant == tenant, runs.c.id == run.id, runs.c.cancel_requested.is_(False))
        .values(cancel_requested=True, updated_at=now)
    )
    return _read(connection, tenant, run.id)


def commit(
    connection: Connection, run_id: str, epoch: int, changes: Sequence[Change], now: float
) -> list[Event]:
    """All changes or none; the events among them, numbered."""
    run = lock_run(connection, run_id)
    require_epoch(run, epoch)
    _require_open(run)
    entry = run.last_entry
    drafts: list[EventDraft] = []
    for change in changes:
        match change:
            case EventDraft():
                drafts.append(change)
            case RunChange():
                _change_run(connection, run, change)
            case StepChange():
                entry = _change_step(connection, run, change, entry, now)
    numbered = [
        Event(RunId(run.id), seq, draft.type, now, draft.step, draft.data)
        for seq, draft in enumerate(drafts, run.last_seq + 1)
    ]
    if numbered:
        connection.execute(insert(events), [_event_row(run.tenant, item) for item in numbered])
    connection.execute(
        update(runs)
        .where(runs.c.tenant == run.tenant, runs.c.id == run.id)
        .values(last_seq=run.last_seq + len(numbered), last_entry=entry, updated_at=now)
    )
    return numbered


def _require_names(new: NewRun) -> None:
    plain(new.id)
    for what in ("tenant", "principal", "graph_name", "graph_version", "body_hash"):
        require_name(what, getattr(new, what))
    if new.idempotency_key is not None:
        require_name("an idempotency key", new.idempotency_key)


def _same_request(connection: Connection, new: NewRun) -> RunRecord | None:
    """The run that this request made before, by its idempotency key or (a caller repeats itself) its id."""
    same = [runs.c.id == new.id]
    if new.idempotency_key is not None:
        same.insert(0, runs.c.idempotency_key == new.idempotency_key)
    for found in same:
        row = connection.execute(run_query().where(runs.c.tenant == new.tenant, found)).one_or_none()
        if row is None:
            continue
        if row.body_hash == new.body_hash and row.idempotency_key == new.idempotency_key:
            return run_record(row)
        raise IdempotencyConflict(
            f"the idempotency key or id of run {row.id} was used with another request",
            fix="use a new Idempotency-Key for a new request",
        )
    return None


def _insert_run(connection: Connection, new: NewRun, now: float) -> None:
    connection.execute(
        insert(runs).values(
            tenant=new.tenant,
            id=new.id,
            principal=new.principal,
            graph_name=new.graph_name,
            graph_version=new.graph_version,
            idempotency_key=new.idempotency_key,
            body_hash=new.body_hash,
            status="pending",
            epoch=0,
            cancel_requested=False,
            last_seq=0,
            last_entry=0,
            deadline=new.deadline,
            created_at=now,
            updated_at=now,
            **usage_values(Usage()),
        )
    )
    own = {"tenant": new.tenant, "run_id": new.id}
    connection.execute(
        insert(run_inputs).values(graph=new.graph, input=new.input, metadata=new.metadata, **own)
    )
    if new.metadata:
        labels = [{"label": label(key, value), **own} for key, value in new.metadata.items()]
        connection.execute(insert(run_labels), labels)


def _read(connection: Connection, tenant: str, run_id: str) -> RunRecord:
    return run_record(
        connection.execute(run_query().where(runs.c.tenant == tenant, runs.c.id == run_id)).one()
    )


def _require_open(run: Row[Any]) -> None:
    if run.status in TERMINAL_STATUSES:
        raise Conflict(f"run {run.id} is finished ({run.status})", fix="start a new run", code="run_terminal")


def _change_run(connection: Connection, run: Row[Any], change: RunChange) -> None:
    values: dict[str, Any] = {"status": change.status}
    values |= {
        name: getattr(change, name)
        for name in ("reason", "error", "output")
        if getattr(change, name) is not None
    }
    if change.usage is not None:
        values |= usage_values(change.usage)
    connection.execute(update(runs).where(runs.c.tenant == run.tenant, runs.c.id == run.id).values(values))


def _change_step(connection: Connection, run: Row[Any], change: StepChange, entry: int, now: float) -> int:
    """Writes the step's row; returns the number of the run's last entry."""
    own = (steps.c.tenant == run.tenant, steps.c.run_id == run.id, steps.c.key == change.key)
    row = connection.execute(select(steps.c.state, steps.c.attempt, steps.c.epoch).where(*own)).one_or_none()
    started = change.state == "started"
    values: dict[str, Any] = {
        "state": change.state,
        "attempt": change.attempt,
        "epoch": run.epoch,
        "output": change.output,
        "error": change.error,
        "finished_at": None if started else now,
        **usage_values(change.usage),
    }
    if started:
        values["started_at"] = now
    values |= {n: getattr(change, n) for n in ("agent", "input") if getattr(change, n) is not None}
    if row is None:
        fixed = {"key": change.key, "number": entry + 1, "step": change.step, "item": change.index}
        connection.execute(insert(steps).values(tenant=run.tenant, run_id=run.id, **fixed, **values))
        return entry + 1
    _require_step_open(run, row, change)
    connection.execute(update(steps).where(*own).values(values))
    if started:
        _give_up_calls(connection, run, change)
    return entry


def _require_step_open(run: Row[Any], row: Row[Any], change: StepChange) -> None:
    if row.state == "done":
        raise Conflict(
            f"step {change.key} of run {run.id} is done already", fix="read its output", code="step_done"
        )
    # A new claim may count its attempts from one again; the epoch fences the old ones.
    if row.epoch == run.epoch and change.attempt < row.attempt:
        raise StaleEpoch(
            f"step {change.key} of run {run.id} is at attempt {row.attempt}, not {change.attempt}",
            fix="drop this result: the step was given to another attempt",
        )


def _give_up_calls(connection: Connection, run: Row[Any], change: StepChange) -> None:
    """What an earlier attempt of the step had begun is of unknown outcome now."""
    connection.execute(
        update(calls)
        .where(calls.c.tenant == run.tenant, calls.c.run_id == run.id, calls.c.step == change.key)
        .where(calls.c.state == "intent", calls.c.attempt != change.attempt)
        .values(state="unknown")
    )


def _event_row(tenant: str, item: Event) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "run_id": item.run,
        "seq": item.seq,
        "type": item.type,
        "at": item.at,
        "step": item.step,
        "data": item.data,
    }
