"""How a model's route changes: asked for, then active or failed; and which versions may go down by that."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from coordinator.store.model_records import Route, Sticky, Why
from coordinator.store.model_rows import (
    find_route,
    needed,
    put_route,
    routes_of,
    set_route,
    set_version,
    version_rows,
)
from coordinator.store.model_schema import model_routes, model_versions
from manta.errors import Conflict, InvalidInput

MAX_ARMS = 16
MAX_SHARE = 1_000_000
MAX_ERROR = 4000
"""Characters of the reason why a route failed."""
_STICKY = ("run", "user", "none")


@dataclass(frozen=True, slots=True)
class Wish:
    """A route that is asked for. `keep_s`: how long versions that it does without stay up, in seconds."""

    weights: Mapping[int, int]
    sticky: Sticky
    why: Why
    keep_s: float
    by: str

    def is_met_by(self, route: Route | None) -> bool:
        """Whether a route sends every call where this one would."""
        if route is None or set(route.weights) != set(self.weights):
            return False
        return len(self.weights) == 1 or (route.weights == dict(self.weights) and route.sticky == self.sticky)


def check_wish(wish: Wish) -> None:
    """Raises InvalidInput."""
    if not 1 <= len(wish.weights) <= MAX_ARMS:
        raise InvalidInput(f"a route has 1 to {MAX_ARMS} versions", fix='send {"1": 90, "2": 10}')
    for version, weight in wish.weights.items():
        if type(version) is not int or type(weight) is not int or not 1 <= weight <= MAX_SHARE:
            raise InvalidInput(
                f"version {version!r} cannot have the share {weight!r}",
                fix=f"shares are whole numbers from 1 to {MAX_SHARE}; leave out a version that is to have none",
            )
    if wish.sticky not in _STICKY:
        raise InvalidInput(f"a route cannot be sticky by {wish.sticky!r}", fix=f"of {', '.join(_STICKY)}")
    if not 0 <= wish.keep_s < math.inf:
        raise InvalidInput("keep_s is negative or endless", fix="give seconds, 0 for none")


def ask_for(connection: Connection, model: str, wish: Wish, now: float) -> Route:
    """A pending route, unless the pending or the active one does as well. An older pending one is given up.

    The wish's versions are there.
    """
    pending, active = (find_route(connection, model, "pending"), find_route(connection, model, "active"))
    if pending is not None and wish.is_met_by(pending):
        return pending
    if pending is not None:
        set_route(connection, pending, state="failed", error="superseded", ended_at=now)
    if active is not None and wish.is_met_by(active):
        route = active
    else:
        route = put_route(connection, model, _values(wish, now))
        for version, row in version_rows(connection, model).items():
            if version in wish.weights and (not row.up or row.down_at is not None):
                set_version(connection, model, version, up=True, down_at=None)
    if pending is not None:
        release(connection, model, pending.weights, now + wish.keep_s)
    return route


def activate(connection: Connection, model: str, revision: int, now: float) -> None:
    """The pending route serves from now on, and the one before it no more. Nothing if it is pending no more."""
    pending, active = (find_route(connection, model, "pending"), find_route(connection, model, "active"))
    if pending is None or pending.revision != revision:
        return
    if active is not None:
        set_route(connection, active, state="past", ended_at=now)
    set_route(connection, pending, state="active", active_at=now)
    if active is not None:
        release(connection, model, active.weights, now + keep_s(connection, pending))


def fail(connection: Connection, model: str, revision: int, error: str, now: float) -> None:
    """The pending route comes to nothing. Nothing if it is pending no more."""
    pending = find_route(connection, model, "pending")
    if pending is None or pending.revision != revision:
        return
    set_route(connection, pending, state="failed", error=str(error)[:MAX_ERROR], ended_at=now)
    release(connection, model, pending.weights, now + keep_s(connection, pending))


def release(connection: Connection, model: str, versions: Iterable[int], at: float) -> None:
    """Those that no route needs may go down then."""
    kept = needed(connection, model)
    for version, row in version_rows(connection, model).items():
        if version in versions and version not in kept and row.up and row.down_at is None:
            set_version(connection, model, version, down_at=at)


def retire(connection: Connection, model: str, version: int, now: float) -> bool:
    """Whether it is to be deployed no more; see `Models.retire`."""
    own = (model_versions.c.model == model, model_versions.c.version == version)
    row = connection.execute(select(model_versions).where(*own)).one_or_none()
    if row is None or not row.up:
        return True
    if row.down_at is None or row.down_at > now or version in needed(connection, model):
        return False
    set_version(connection, model, version, up=False)
    return True


def weights_before(connection: Connection, model: str, active: Route) -> Route:
    """The latest route that served and differs from the active one. Raises Conflict, code `no_earlier_route`."""
    there = version_rows(connection, model)
    for route in routes_of(connection, model, "past"):
        wish = Wish(route.weights, route.sticky, "rolled_back", 0, "")
        if not wish.is_met_by(active) and all(version in there for version in route.weights):
            return route
    raise Conflict(
        f"model {model} has no earlier route to go back to",
        fix="promote a version instead",
        code="no_earlier_route",
    )


def keep_s(connection: Connection, route: Route) -> float:
    """How long versions that a route does without stay up."""
    own = (model_routes.c.model == route.model, model_routes.c.revision == route.revision)
    return float(connection.execute(select(model_routes.c.keep_s).where(*own)).scalar_one())


def _values(wish: Wish, now: float) -> dict[str, Any]:
    return {
        "weights": {str(version): weight for version, weight in wish.weights.items()},
        "sticky": wish.sticky,
        "why": wish.why,
        "keep_s": wish.keep_s,
        "created_by": wish.by,
        "created_at": now,
    }
