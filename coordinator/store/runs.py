"""What is done to whole runs from outside: asked to stop, opened again, deleted."""

from collections.abc import Collection

from sqlalchemy import Connection, delete, insert, update

from coordinator.store.calls import clear_failed, give_up_all
from coordinator.store.records import TERMINAL_STATUSES, RunRecord
from coordinator.store.requests import seen_by_run
from coordinator.store.retention import delete_runs
from coordinator.store.rows import lock_run_of, read_run, require_open
from coordinator.store.schema import RESERVED_FIELDS, events, runs, steps
from manta.errors import Conflict
from manta.ids import StepKey
from manta.messages import Budget, to_json

_AT_ONCE = 0.0
"""A time that has come whatever the clock does."""


def request_cancel(connection: Connection, tenant: str, run_id: str, now: float) -> RunRecord:
    run = lock_run_of(connection, tenant, run_id)
    require_open(run)
    # Nobody drives a waiting run: whoever looks for those that are due finds it.
    due = {"wake_at": _AT_ONCE} if run.status == "waiting" else {}
    connection.execute(
        update(runs)
        .where(runs.c.number == run.number, runs.c.cancel_requested.is_(False))
        .values(cancel_requested=True, updated_at=now, **due)
    )
    return read_run(connection, tenant, run.id)


def reopen(
    connection: Connection,
    tenant: str,
    run_id: str,
    budget: Budget | None,
    keep: Collection[StepKey],
    key: str | None,
    now: float,
) -> RunRecord:
    """Makes a run that did not end well pending again: what failed in it is forgotten, but for `keep`."""
    run = lock_run_of(connection, tenant, run_id)
    if seen_by_run(connection, run, "resume", key, to_json(budget)):
        return read_run(connection, tenant, run.id)
    if run.status not in TERMINAL_STATUSES - {"success"}:
        raise Conflict(
            f"run {run.id} is {run.status}: only one that failed or was stopped can be resumed",
            fix="fork it instead" if run.status == "success" else "wait until it is over",
            code="run_terminal" if run.status == "success" else "run_active",
        )
    give_up_all(connection, run)
    clear_failed(connection, run)
    own = (steps.c.tenant == run.tenant, steps.c.run_id == run.id)
    forgotten = steps.c.state.not_in(("done", "skipped")) & steps.c.key.not_in(sorted(keep))
    connection.execute(delete(steps).where(*own, forgotten))
    seq = run.last_seq + 1
    resumed = {"tenant": run.tenant, "run_id": run.id, "seq": seq, "type": "run_resumed", "at": now}
    connection.execute(insert(events), {**resumed, "step": None, "data": {"reason": "resumed"}})
    renewed = {} if budget is None else {"budget": to_json(budget)}
    connection.execute(
        update(runs)
        .where(runs.c.number == run.number)
        .values(
            status="pending",
            owner=None,
            reason=None,
            error=None,
            output=None,
            cancel_requested=False,
            deadline=None,
            wake_at=None,
            takeovers=0,
            open_calls=0,
            last_seq=seq,
            updated_at=now,
            **dict.fromkeys(RESERVED_FIELDS, 0),
            **renewed,
        )
    )
    return read_run(connection, tenant, run.id)


def delete_run(connection: Connection, tenant: str, run_id: str) -> None:
    """Deletes a finished run with everything that belongs to it."""
    run = lock_run_of(connection, tenant, run_id)
    if run.status not in TERMINAL_STATUSES:
        raise Conflict(f"run {run.id} is {run.status}", fix="cancel it first", code="run_active")
    delete_runs(connection, run.tenant, [run.id])
