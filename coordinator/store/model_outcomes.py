"""How the versions of a model did: totals that processes tell, and ratings of runs, for a comparison."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, select

from coordinator.experiments import Observed
from coordinator.routes import choose, sticky_key
from coordinator.samples import Moments
from coordinator.store.bulk import Bulk, inserted
from coordinator.store.library_schema import feedback
from coordinator.store.model_records import ArmTotals, Route
from coordinator.store.model_rows import routes_of
from coordinator.store.model_schema import model_arms
from coordinator.store.schema import calls, runs
from manta.errors import InvalidInput, NotFound
from manta.ids import RunId, Tenant
from manta.messages import to_json

MAX_RATED = 100_000
"""Of more runs than these the newest count."""
MAX_METER = 32
_PLACE = ("model", "revision", "version")
_AMOUNTS = tuple(f.name for f in dataclasses.fields(ArmTotals) if f.name not in _PLACE)
_LARGEST = 1 << 53


def total_rows(meter: str, totals: Sequence[ArmTotals]) -> list[dict[str, Any]]:
    """Raises InvalidInput for what cannot be a total."""
    if not 1 <= len(meter) <= MAX_METER or not meter.isprintable():
        raise InvalidInput(f"a meter has 1 to {MAX_METER} printable characters", fix="use a random id")
    rows = [{**to_json(told), "meter": meter} for told in totals]
    for row in rows:
        for name in _AMOUNTS:
            # Times below a second have logarithms below 0.
            least = -_LARGEST if name.endswith("_log_sum") else 0
            if not (math.isfinite(row[name]) and least <= row[name]):
                raise InvalidInput(f"{name} cannot be {row[name]!r}", fix="tell finite sums")
    return rows


def write_totals(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    _WRITE_TOTALS.run(connection, rows)


def _upsert(kind: Any) -> Any:
    statement: Any = inserted(kind, model_arms)
    keys = [column.name for column in model_arms.primary_key]
    later = statement.excluded.calls >= model_arms.c.calls
    amounts = {name: statement.excluded[name] for name in _AMOUNTS}
    return statement.on_conflict_do_update(index_elements=keys, set_=amounts, where=later)


_WRITE_TOTALS = Bulk(_upsert)


def compared_route(connection: Connection, model: str, revision: int | None) -> Route:
    """The route of this revision, None: the newest, that has several versions and served once.

    Raises NotFound, code `no_comparison`.
    """
    for route in routes_of(connection, model):
        if len(route.weights) > 1 and route.active_at is not None and revision in (None, route.revision):
            return route
    which = "" if revision is None else f" in revision {revision}"
    raise NotFound(f"calls of {model} were not split{which}", fix="manta models split", code="no_comparison")


def observed(connection: Connection, route: Route) -> list[Observed]:
    ratings = _ratings(connection, route)
    sums = [func.sum(model_arms.c[name]).label(name) for name in _AMOUNTS]
    own = (model_arms.c.model == route.model, model_arms.c.revision == route.revision)
    query = select(model_arms.c.version, *sums).where(*own).group_by(model_arms.c.version)
    seen = [_observed(row, ratings.pop(row.version, Moments())) for row in connection.execute(query)]
    return seen + [Observed(version, rating=moments) for version, moments in ratings.items()]


def _observed(row: Any, rating: Moments) -> Observed:
    answered = int(row.answered)
    return Observed(
        version=row.version,
        calls=int(row.calls),
        failures=int(row.failures),
        output_tokens=int(row.output_tokens),
        first=Moments(answered, row.first_log_sum, row.first_log_squares),
        total=Moments(answered, row.total_log_sum, row.total_log_squares),
        cost=Moments(answered, row.micros_sum, row.micros_squares),
        rating=rating,
    )


def _ratings(connection: Connection, route: Route) -> dict[int, Moments]:
    """By the version that the route chooses for a run: which one answered may itself follow from how it did."""
    by_version: dict[int, list[float]] = {}
    for tenant, run, principal, rating in _rated_runs(connection, route):
        key = sticky_key(route.sticky, RunId(run), Tenant(tenant), principal)
        if key is not None:
            by_version.setdefault(choose(route, key), []).append(float(rating))
    return {version: _moments(ratings) for version, ratings in by_version.items()}


def _moments(values: Sequence[float]) -> Moments:
    return Moments(len(values), math.fsum(values), math.fsum(value * value for value in values))


def _rated_runs(connection: Connection, route: Route) -> Iterable[Any]:
    """Tenant, id, principal and mean rating of runs that asked the model and began while the route served."""
    asked = select(calls.c.key).where(
        calls.c.tenant == runs.c.tenant,
        calls.c.run_id == runs.c.id,
        calls.c.kind == "model",
        calls.c.name == route.model,
    )
    query = (
        select(runs.c.tenant, runs.c.id, runs.c.principal, func.avg(feedback.c.rating))
        .select_from(runs.join(feedback, _of_run()))
        .where(feedback.c.rating.is_not(None), runs.c.created_at >= route.active_at, asked.exists())
        .group_by(runs.c.number, runs.c.tenant, runs.c.id, runs.c.principal)
        .order_by(runs.c.number.desc())
        .limit(MAX_RATED)
    )
    if route.ended_at is not None:
        query = query.where(runs.c.created_at < route.ended_at)
    return connection.execute(query).all()


def _of_run() -> ColumnElement[bool]:
    return and_(feedback.c.tenant == runs.c.tenant, feedback.c.run_id == runs.c.id)
