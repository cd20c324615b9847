"""People's answers to steps that wait. Anyone writes them; the run's owner acts on them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from coordinator.store.records import TERMINAL_STATUSES, Decision, RunRecord
from coordinator.store.requests import seen_by_run
from coordinator.store.rows import lock_run_of, plain, read_run, require_name
from coordinator.store.schema import decisions, runs, steps
from manta.errors import Conflict, InvalidInput

FITTING: dict[str, frozenset[str]] = {
    "approval": frozenset({"approve", "reject", "edit"}),
    "outcome_unknown": frozenset({"retry", "resolve", "reject"}),
}
"""The actions that answer what a step waits for."""


def decide(
    connection: Connection,
    tenant: str,
    run_id: str,
    step: str | None,
    action: str,
    value: Any,
    comment: str,
    by: str,
    key: str | None,
    now: float,
) -> RunRecord:
    """Writes the answer, and wakes the run if nobody has it in memory."""
    run = lock_run_of(connection, tenant, run_id)
    if seen_by_run(connection, run, "decide", key, [step, action, value, comment]):
        # By now another step may wait, which this is no answer to.
        return read_run(connection, run.tenant, run.id)
    held = _waiting(connection, run)
    answers = _of_run(connection, run)
    # An answer to what a step waited for earlier is not one to what it waits for now.
    open_ = {answer.step: answer for answer in answers if answer.step in held and not answer.taken}
    target = step if step is not None else _only(held, open_, answers)
    given = open_.get(target) or (None if target in held else _last(answers, target))
    if given is not None:
        return _repeated(connection, run, given, action, value)
    if target not in held:
        raise _not_waiting(run, target)
    _require_fitting(held[target], action)
    connection.execute(
        insert(decisions).values(
            tenant=run.tenant,
            run_id=run.id,
            number=max((answer.number for answer in answers), default=0) + 1,
            step=target,
            action=action,
            value=value,
            comment=comment,
            by=require_name("who decides", by),
            at=now,
            taken=False,
        )
    )
    woken = {"status": "pending", "reason": None, "wake_at": None} if run.status == "waiting" else {}
    connection.execute(
        update(runs)
        .where(runs.c.number == run.number)
        .values(open_decisions=runs.c.open_decisions + 1, updated_at=now, **woken)
    )
    return read_run(connection, run.tenant, run.id)


def read_decisions(connection: Connection, run_id: str) -> list[Decision]:
    """Those that the owner has not acted on, in order."""
    run = select(runs.c.tenant).where(runs.c.id == plain(run_id)).scalar_subquery()
    query = select(decisions).where(
        decisions.c.tenant == run, decisions.c.run_id == run_id, decisions.c.taken.is_(False)
    )
    return [
        Decision(row.number, row.step, row.action, row.value, row.comment, row.by, row.at)
        for row in connection.execute(query.order_by(decisions.c.number))
    ]


def take(connection: Connection, run: Row[Any], number: int) -> int:
    """How many decisions are open no more: none if this one was acted on before. Raises Conflict."""
    own = (*_rows(run), decisions.c.number == number)
    if connection.execute(update(decisions).where(*own, ~decisions.c.taken).values(taken=True)).rowcount:
        return 1
    if connection.execute(select(decisions.c.number).where(*own)).first() is None:
        raise Conflict(f"run {run.id} has no decision {number}", fix="read the run's decisions")
    return 0


def drop_stale(connection: Connection, run: Row[Any]) -> int:
    """How many decisions came too late: their steps wait no more."""
    own = (steps.c.tenant == run.tenant, steps.c.run_id == run.id)
    held = select(steps.c.key).where(*own, steps.c.state == "waiting")
    late = update(decisions).where(*_rows(run), ~decisions.c.taken, decisions.c.step.not_in(held))
    return connection.execute(late.values(taken=True)).rowcount


def _rows(run: Row[Any]) -> tuple[Any, ...]:
    return decisions.c.tenant == run.tenant, decisions.c.run_id == run.id


def _waiting(connection: Connection, run: Row[Any]) -> dict[str, dict[str, Any]]:
    """What each step that waits waits for; nothing waits once the run is over."""
    if run.status in TERMINAL_STATUSES:
        return {}
    own = (steps.c.tenant == run.tenant, steps.c.run_id == run.id, steps.c.state == "waiting")
    query = select(steps.c.key, steps.c.waiting).where(*own).order_by(steps.c.number)
    return {row.key: row.waiting or {} for row in connection.execute(query)}


def _of_run(connection: Connection, run: Row[Any]) -> Sequence[Row[Any]]:
    return connection.execute(select(decisions).where(*_rows(run)).order_by(decisions.c.number)).all()


def _only(held: dict[str, Any], open_: dict[str, Any], answers: Sequence[Row[Any]]) -> str | None:
    """The step that is meant when none is named."""
    undecided = [key for key in held if key not in open_]
    candidates = undecided or list(held)
    if len(candidates) > 1:
        raise Conflict(
            f"{len(candidates)} steps wait: {', '.join(candidates[:5])}",
            fix="name the step",
            code="ambiguous",
        )
    return candidates[0] if candidates else answers[-1].step if answers else None


def _last(answers: Sequence[Row[Any]], step: str | None) -> Row[Any] | None:
    return next((answer for answer in reversed(answers) if answer.step == step), None)


def _repeated(connection: Connection, run: Row[Any], given: Row[Any], action: str, value: Any) -> RunRecord:
    if (given.action, given.value) != (action, value):
        raise Conflict(
            f"step {given.step} of run {run.id} was decided by {given.by}: {given.action}",
            fix="look at the run",
            code="decided",
        )
    return read_run(connection, run.tenant, run.id)


def _require_fitting(waiting: dict[str, Any], action: str) -> None:
    reason = str(waiting.get("reason"))
    fitting = FITTING.get(reason, frozenset())
    if action == "edit" and not waiting.get("editable", True):
        raise InvalidInput("what is shown cannot be edited", fix="approve or reject it")
    if action not in fitting:
        raise InvalidInput(
            f"{action!r} does not answer a step that waits for {reason}",
            fix=f"one of: {', '.join(sorted(fitting))}",
        )


def _not_waiting(run: Row[Any], step: str | None) -> Conflict:
    what = f"step {step}" if step is not None else "no step"
    return Conflict(
        f"{what} of run {run.id} {'is not waiting' if step is not None else 'waits'}",
        fix="look at the run: it may have gone on",
        code="not_waiting",
    )
