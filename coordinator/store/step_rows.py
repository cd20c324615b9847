"""How step executions and events become rows, and what a commit adds to its run: for one commit and for many."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, and_, bindparam, func, literal_column, not_, update

from coordinator.store.bulk import Bulk, inserted, text_of
from coordinator.store.records import EventDraft, RunChange, StepChange
from coordinator.store.rows import usage_values
from coordinator.store.schema import events, runs, steps
from manta.events import Event
from manta.ids import RunId

_KEPT = ("agent", "input", "started_at")
"""Columns that keep what an earlier change said when a later one leaves them out."""
_FIXED = ("tenant", "run_id", "key", "number", "step", "item")


def _upsert(kind: Any) -> Any:
    """A step's row. One that is done stays, and an older attempt of the same claim changes nothing."""
    statement = inserted(kind, steps)
    new = statement.excluded  # type: ignore[attr-defined]
    changed = {
        column.name: func.coalesce(new[column.name], column) if column.name in _KEPT else new[column.name]
        for column in steps.c
        if column.name not in _FIXED
    }
    older = and_(steps.c.epoch == new.epoch, new.attempt < steps.c.attempt)
    return statement.on_conflict_do_update(  # type: ignore[attr-defined]
        index_elements=["tenant", "run_id", "key"],
        set_=changed,
        where=and_(steps.c.state != literal_column("'done'"), not_(older)),
    )


WRITE_STEPS = Bulk(_upsert)
WRITE_EVENTS = Bulk(lambda kind: inserted(kind, events))
ADVANCE_RUNS = Bulk(
    lambda _: (
        update(runs)
        .where(runs.c.number == bindparam("of"))
        .values(
            last_seq=bindparam("seq"),
            last_entry=bindparam("entry"),
            updated_at=bindparam("now"),
            milliseconds=runs.c.milliseconds + bindparam("worked"),
            takeovers=bindparam("took_over"),
        )
    )
)
CHANGE_RUNS = Bulk(
    lambda _: (
        update(runs)
        .where(runs.c.number == bindparam("of"))
        .values(
            status=bindparam("new_status"),
            owner=bindparam("new_owner"),
            wake_at=bindparam("new_wake_at"),
            reason=func.coalesce(bindparam("new_reason"), runs.c.reason),
            error=func.coalesce(bindparam("new_error", type_=runs.c.error.type), runs.c.error),
            output=func.coalesce(bindparam("new_output", type_=runs.c.output.type), runs.c.output),
        )
    )
)


def step_row(run: Row[Any], change: StepChange, number: int, now: float) -> dict[str, Any]:
    """Raises InvalidInput for a value that is not plain JSON."""
    over = change.state in ("done", "failed", "skipped")
    return {
        "tenant": run.tenant,
        "run_id": run.id,
        "key": change.key,
        "number": number,
        "step": change.step,
        "item": change.index,
        "state": change.state,
        "epoch": run.epoch,
        "attempt": change.attempt,
        "agent": change.agent,
        "input": text_of(change.input),
        "output": text_of(change.output),
        "error": text_of(change.error),
        "waiting": text_of(change.waiting),
        "notes": text_of(change.notes),
        **usage_values(change.usage),
        "started_at": now if change.state in ("started", "waiting") else None,
        "finished_at": now if over else None,
    }


def merged(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Two changes of one step as one row."""
    kept = {name: earlier[name] for name in _KEPT if later[name] is None}
    return {**later, "number": earlier["number"], **kept}


def event_row(tenant: str, event: Event) -> dict[str, Any]:
    """Raises InvalidInput for data that is not plain JSON."""
    return {
        "tenant": tenant,
        "run_id": event.run,
        "seq": event.seq,
        "type": event.type,
        "at": event.at,
        "step": event.step,
        "data": text_of(event.data),
    }


def numbered(run_id: str, draft: EventDraft, seq: int, now: float) -> Event:
    return Event(RunId(run_id), seq, draft.type, now, draft.step, draft.data)


def run_row(number: int, change: RunChange, status: str, owner: str | None) -> dict[str, Any]:
    """Raises InvalidInput for a value that is not plain JSON."""
    return {
        "of": number,
        "new_status": status,
        "new_owner": owner,
        "new_wake_at": change.wake_at if status == "waiting" else None,
        "new_reason": change.reason,
        "new_error": text_of(change.error),
        "new_output": text_of(change.output),
    }
