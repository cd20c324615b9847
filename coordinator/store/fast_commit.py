"""Commits of many runs together: one look at all their runs, then each table written in one go.

What fits here is the common case: steps and events of runs that are at work, and their end or rest. Anything else
(a stale epoch, a step that is done, a person's decision) is left to `commit`, one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sqlalchemy import Connection, Row, select

from coordinator.store.bulk import Lookup
from coordinator.store.calls import give_up
from coordinator.store.records import TERMINAL_STATUSES, Change, EventDraft, RunChange, StepChange
from coordinator.store.rows import SMALL_COLUMNS, plain
from coordinator.store.schema import runs
from coordinator.store.step_rows import (
    ADVANCE_RUNS,
    CHANGE_RUNS,
    WRITE_EVENTS,
    WRITE_STEPS,
    event_row,
    merged,
    numbered,
    run_row,
    step_row,
)
from manta.events import Event

Commit: TypeAlias = tuple[str, int, Sequence[Change]]
"""The run's id, the epoch, the changes."""

# In the order of their ids, so that two processes do not wait for each other.
_LOCK_ALL = Lookup(
    lambda ids: select(*SMALL_COLUMNS).where(runs.c.id.in_(ids)).order_by(runs.c.id).with_for_update()
)


@dataclass(slots=True)
class _Run:
    """A run as the commits so far leave it."""

    row: Row[Any]
    seq: int
    entry: int
    takeovers: int
    milliseconds: int = 0
    at_rest: bool = False


@dataclass(slots=True)
class _Rows:
    """What is to be written for the whole group."""

    steps: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    ends: list[dict[str, Any]] = field(default_factory=list)
    given_up: list[tuple[Row[Any], StepChange]] = field(default_factory=list)


def commit_together(
    connection: Connection, commits: Sequence[Commit], now: float
) -> list[list[Event]] | None:
    """The events of each commit; None if one does not fit here, and then nothing must be kept.

    Raises:
        InvalidInput: a value is not plain JSON. NotFound: an id cannot be one.
    """
    ids = sorted({plain(run_id) for run_id, _, _ in commits})
    known = {
        row.id: _Run(row, row.last_seq, row.last_entry, row.takeovers)
        for row in _LOCK_ALL.run(connection, ids)
    }
    rows = _Rows()
    written: list[list[Event]] = []
    for run_id, epoch, changes in commits:
        run = known.get(run_id)
        events = None if run is None or not _fits(run, epoch, changes) else _add(rows, run, changes, now)
        if events is None:
            return None
        written.append(events)
    for row, change in rows.given_up:
        give_up(connection, row, change)
    return written if _write(connection, rows, known.values(), now) else None


def _fits(run: _Run, epoch: int, changes: Sequence[Change]) -> bool:
    row = run.row
    at_work = row.status == "running" and row.epoch == epoch and epoch > 0 and not run.at_rest
    return at_work and not row.open_decisions and all(_is_common(row, change) for change in changes)


def _is_common(row: Row[Any], change: Change) -> bool:
    if isinstance(change, RunChange):
        if change.status == "waiting":
            return not row.cancel_requested
        return change.status in TERMINAL_STATUSES and row.webhook is None
    return isinstance(change, (StepChange, EventDraft))


def _add(rows: _Rows, run: _Run, changes: Sequence[Change], now: float) -> list[Event] | None:
    """Notes one commit; None if a step of it must not be changed."""
    row = run.row
    events: list[Event] = []
    end: RunChange | None = None
    for change in changes:
        if isinstance(change, EventDraft):
            run.seq += 1
            events.append(numbered(row.id, change, run.seq, now))
        elif isinstance(change, StepChange):
            if not _add_step(rows, run, change, now):
                return None
        elif isinstance(change, RunChange):
            end = change
    rows.events += [event_row(row.tenant, event) for event in events]
    if end is not None:
        owner = None if end.status == "waiting" else row.owner
        rows.ends.append(run_row(row.number, end, end.status, owner))
        run.at_rest = True
    return events


def _add_step(rows: _Rows, run: _Run, change: StepChange, now: float) -> bool:
    run.entry += 1
    run.milliseconds += change.usage.milliseconds
    if change.state == "done":
        run.takeovers = 0
    if run.row.open_calls:
        rows.given_up.append((run.row, change))
    row = step_row(run.row, change, run.entry, now)
    place = (run.row.id, change.key)
    earlier = rows.steps.get(place)
    if earlier is not None:
        if earlier["state"] == "done" or change.attempt < earlier["attempt"]:
            return False
        row = merged(earlier, row)
    rows.steps[place] = row
    return True


def _write(connection: Connection, rows: _Rows, known: Any, now: float) -> bool:
    """Whether every step was open to its change."""
    if not WRITE_STEPS.run(connection, list(rows.steps.values())):
        return False
    WRITE_EVENTS.run(connection, rows.events)
    advanced = [
        {
            "of": run.row.number,
            "seq": run.seq,
            "entry": run.entry,
            "now": now,
            "worked": run.milliseconds,
            "took_over": run.takeovers,
        }
        for run in known
    ]
    ADVANCE_RUNS.run(connection, advanced)
    CHANGE_RUNS.run(connection, rows.ends)
    return True
