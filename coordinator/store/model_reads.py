"""What is asked of models: the book, the keeper's plan, a model with its history.

Where several queries make an answer, routes are read before versions: a version that a route needs is there.
"""

from sqlalchemy import ColumnElement, Connection, select, tuple_

from coordinator.store.model_records import (
    Book,
    KeeperPlan,
    ModelOnFile,
    ModelVersion,
    Route,
    RouteState,
    Served,
)
from coordinator.store.model_rows import (
    generation,
    require_versions,
    route_record,
    routes_of,
    version_record,
    version_rows,
)
from coordinator.store.model_schema import model_routes, model_versions

MAX_HISTORY = 20


def read_book(connection: Connection, current: int) -> Book:
    """`current`: the generation, read before."""
    active = _routes_in(connection, "active")
    # Also one that was retired or removed meanwhile: the next book is without it.
    wanted = [(route.model, version) for route in active for version in route.weights]
    found = _versions(connection, tuple_(model_versions.c.model, model_versions.c.version).in_(wanted))
    versions = {(version.model, version.version): version for version in found}
    served = (
        Served(route.model, route, tuple(versions[route.model, version] for version in sorted(route.weights)))
        for route in active
    )
    return Book(current, tuple(served))


def read_plan(connection: Connection) -> KeeperPlan:
    current = generation(connection)
    pending = _routes_in(connection, "pending")
    return KeeperPlan(current, tuple(_versions(connection, model_versions.c.up)), tuple(pending))


def read_version(connection: Connection, model: str, version: int) -> ModelVersion:
    return version_record(require_versions(connection, model, [version])[version])


def on_file(connection: Connection, model: str) -> ModelOnFile:
    history = routes_of(connection, model)
    versions = tuple(version_record(row) for row in version_rows(connection, model).values())
    active, pending = (
        next((route for route in history if route.state == state), None) for state in ("active", "pending")
    )
    return ModelOnFile(model, versions, active, pending, tuple(history[:MAX_HISTORY]))


def _routes_in(connection: Connection, state: RouteState) -> list[Route]:
    query = select(model_routes).where(model_routes.c.state == state).order_by(model_routes.c.model)
    return [route_record(row) for row in connection.execute(query)]


def _versions(connection: Connection, which: ColumnElement[bool]) -> list[ModelVersion]:
    query = select(model_versions).where(which).order_by(model_versions.c.model, model_versions.c.version)
    return [version_record(row) for row in connection.execute(query)]
