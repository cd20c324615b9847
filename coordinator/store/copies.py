"""What a fork takes over: executions of another run, as they ended there."""

from sqlalchemy import Connection, func, insert, literal, select, update

from coordinator.store.records import NewRun
from coordinator.store.rows import plain, run_not_found
from coordinator.store.schema import runs, steps
from manta.errors import Conflict

_KEYS_AT_ONCE = 1000
_OWN = ("tenant", "run_id", "number", "epoch")
_TAKEN_OVER = [column for column in steps.c if column.name not in _OWN]


def copy_steps(connection: Connection, new: NewRun, origin: str) -> None:
    """Copies the executions that `new` names, in their order.

    Raises:
        NotFound: the tenant has no run `origin`.
        Conflict: one of them has not ended well there.
    """
    found = (runs.c.tenant == new.tenant, runs.c.id == plain(origin))
    if connection.execute(select(runs.c.number).where(*found)).first() is None:
        raise run_not_found(origin)
    for first in range(0, len(new.copied), _KEYS_AT_ONCE):
        _copy(connection, new, origin, new.copied[first : first + _KEYS_AT_ONCE])
    counted = select(func.count(), func.max(steps.c.number))
    own = (steps.c.tenant == new.tenant, steps.c.run_id == new.id)
    copied, last = connection.execute(counted.where(*own)).one()
    if copied != len(set(new.copied)):
        raise Conflict(
            f"not all of these executions of run {origin} are done", fix="fork from a step that has ended"
        )
    own_run = update(runs).where(runs.c.tenant == new.tenant, runs.c.id == new.id)
    connection.execute(own_run.values(last_entry=last or 0))


def _copy(connection: Connection, new: NewRun, origin: str, keys: tuple[str, ...]) -> None:
    source = (
        select(literal(new.tenant), literal(new.id), steps.c.number, literal(0), *_TAKEN_OVER)
        .where(steps.c.tenant == new.tenant, steps.c.run_id == origin)
        .where(steps.c.key.in_(keys), steps.c.state.in_(("done", "skipped")))
    )
    into = [*_OWN, *(column.name for column in _TAKEN_OVER)]
    connection.execute(insert(steps).from_select(into, source))
