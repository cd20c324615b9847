"""One commit with all kinds of changes: every check by itself, so that a refusal says what is wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, select, update

from coordinator.store import threads, webhooks
from coordinator.store.calls import give_up, settle
from coordinator.store.decisions import drop_stale, take
from coordinator.store.records import (
    TERMINAL_STATUSES,
    CallSettled,
    Change,
    DecisionTaken,
    EventDraft,
    RunChange,
    StepChange,
    ThreadChange,
)
from coordinator.store.rows import lock_run, require_at_work, require_epoch, require_open
from coordinator.store.schema import runs, steps
from coordinator.store.step_rows import (
    ADVANCE_RUNS,
    CHANGE_RUNS,
    WRITE_EVENTS,
    WRITE_STEPS,
    event_row,
    numbered,
    run_row,
    step_row,
)
from manta.errors import Conflict, StaleEpoch
from manta.events import Event
from manta.faults import reach


@dataclass(slots=True)
class _Commit:
    """What has come together so far."""

    connection: Connection
    run: Row[Any]
    now: float
    entry: int
    takeovers: int
    open_decisions: int
    milliseconds: int = 0
    drafts: list[EventDraft] = field(default_factory=list)
    end: RunChange | None = None
    touched_steps: bool = False


def commit(
    connection: Connection, run_id: str, epoch: int, changes: Sequence[Change], now: float
) -> list[Event]:
    """All changes or none; the events among them, numbered."""
    run = lock_run(connection, run_id)
    require_epoch(run, epoch)
    require_open(run)
    require_at_work(run)
    work = _Commit(connection, run, now, run.last_entry, run.takeovers, run.open_decisions)
    for change in changes:
        _apply(work, change)
    if work.touched_steps and work.open_decisions:
        work.open_decisions -= drop_stale(connection, run)
    events = [numbered(run.id, draft, seq, now) for seq, draft in enumerate(work.drafts, run.last_seq + 1)]
    WRITE_EVENTS.run(connection, [event_row(run.tenant, event) for event in events])
    _advance(work, len(events))
    if work.end is not None:
        _change_run(work, work.end)
    return events


def _apply(work: _Commit, change: Change) -> None:
    connection, run = work.connection, work.run
    match change:
        case EventDraft():
            work.drafts.append(change)
        case StepChange():
            _change_step(work, change)
        case RunChange():
            work.end = change
        case ThreadChange():
            threads.apply(connection, run.tenant, run.id, change, work.now)
        case DecisionTaken():
            work.open_decisions -= take(connection, run, change.number)
        case CallSettled():
            settle(connection, run, change, work.now)
            work.touched_steps = True


def _change_step(work: _Commit, change: StepChange) -> None:
    run = work.run
    own = (steps.c.tenant == run.tenant, steps.c.run_id == run.id, steps.c.key == change.key)
    known = work.connection.execute(
        select(steps.c.state, steps.c.attempt, steps.c.epoch).where(*own)
    ).one_or_none()
    if known is not None:
        _require_step_open(run, known, change)
    if run.open_calls:
        give_up(work.connection, run, change)
    work.entry += 1
    WRITE_STEPS.run(work.connection, [step_row(run, change, work.entry, work.now)])
    work.milliseconds += change.usage.milliseconds
    work.touched_steps = True
    if change.state == "done":
        work.takeovers = 0


def _require_step_open(run: Row[Any], known: Row[Any], change: StepChange) -> None:
    if known.state == "done":
        raise Conflict(
            f"step {change.key} of run {run.id} is done already", fix="read its output", code="step_done"
        )
    # A new claim may count its attempts from one again; the epoch fences the old ones.
    if known.epoch == run.epoch and change.attempt < known.attempt:
        raise StaleEpoch(
            f"step {change.key} of run {run.id} is at attempt {known.attempt}, not {change.attempt}",
            fix="drop this result: the step was given to another attempt",
        )


def _advance(work: _Commit, events: int) -> None:
    row = {
        "of": work.run.number,
        "seq": work.run.last_seq + events,
        "entry": work.entry,
        "now": work.now,
        "worked": work.milliseconds,
        "took_over": work.takeovers,
    }
    ADVANCE_RUNS.run(work.connection, [row])
    if work.open_decisions != work.run.open_decisions:
        own = update(runs).where(runs.c.number == work.run.number)
        work.connection.execute(own.values(open_decisions=work.open_decisions))


def _change_run(work: _Commit, change: RunChange) -> None:
    run = work.run
    # Whoever decided or cancelled while the run was being parked has not woken it.
    called = work.open_decisions or run.cancel_requested
    status = "pending" if change.status == "waiting" and called else change.status
    owner = None if status in ("waiting", "pending") else run.owner
    CHANGE_RUNS.run(work.connection, [run_row(run.number, change, status, owner)])
    if status in TERMINAL_STATUSES and run.webhook is not None:
        webhooks.enqueue(work.connection, run.tenant, run.id, work.now)
        reach("journal.run_ending")
