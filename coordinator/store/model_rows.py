"""Between rows and records of models. Every write here raises the generation; callers hold the `lock`."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from coordinator.store.model_records import ModelVersion, Route, RouteState
from coordinator.store.model_schema import BOOK, model_routes, model_versions, models
from coordinator.store.room import encoded, require_object
from coordinator.store.schema import sequences
from manta.errors import InvalidInput, NotFound

MAX_SETTINGS_BYTES = 64 * 1024
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_GENERATION = select(sequences.c.last).where(sequences.c.name == BOOK)
_RAISE = update(sequences).where(sequences.c.name == BOOK).values(last=sequences.c.last + 1)


def lock(connection: Connection) -> None:
    """Until the transaction ends, no other process changes a model."""
    connection.execute(_GENERATION.with_for_update())


def generation(connection: Connection) -> int:
    return int(connection.execute(_GENERATION).scalar_one())


def require_model_name(name: str) -> str:
    """Raises InvalidInput."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{str(name)[:80]!r} is no name for a model",
            fix="use up to 63 lower-case letters, digits, _ and -, a letter first",
        )
    return name


def require_settings(settings: Any) -> dict[str, Any]:
    """Raises InvalidInput for what is no JSON object of ordinary size."""
    checked = require_object("the settings", settings)
    if len(encoded("the settings", checked)) > MAX_SETTINGS_BYTES:
        raise InvalidInput(f"settings may take {MAX_SETTINGS_BYTES} bytes", fix="shorten them")
    return checked


def model_row(connection: Connection, name: str) -> Row[Any] | None:
    """Also of a model that was removed."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return None
    return connection.execute(select(models).where(models.c.name == name)).one_or_none()


def require_model(connection: Connection, name: str) -> Row[Any]:
    """Raises NotFound, code `model_not_found`."""
    row = model_row(connection, name)
    if row is None or row.removed:
        raise model_not_found(name)
    return row


def model_not_found(name: str) -> NotFound:
    return NotFound(f"there is no model {str(name)[:80]!r}", fix="manta models list", code="model_not_found")


def version_rows(connection: Connection, model: str) -> dict[int, Row[Any]]:
    """All that were not removed, by their numbers, the oldest first."""
    own = (model_versions.c.model == model, model_versions.c.removed.is_(False))
    query = select(model_versions).where(*own).order_by(model_versions.c.version)
    return {row.version: row for row in connection.execute(query)}


def require_versions(connection: Connection, model: str, wanted: Iterable[int]) -> dict[int, Row[Any]]:
    """All of the model's. Raises NotFound, code `version_not_found`, if one of `wanted` is not there."""
    there = version_rows(connection, model)
    for version in wanted:
        if version not in there:
            raise NotFound(
                f"model {model} has no version {version!r}",
                fix=f"of {', '.join(map(str, there)) or 'none'}",
                code="version_not_found",
            )
    return there


def find_route(connection: Connection, model: str, state: RouteState) -> Route | None:
    """The one that is `active` or `pending`."""
    own = (model_routes.c.model == model, model_routes.c.state == state)
    row = connection.execute(select(model_routes).where(*own)).one_or_none()
    return None if row is None else route_record(row)


def routes_of(connection: Connection, model: str, state: RouteState | None = None) -> list[Route]:
    """The newest first."""
    query = select(model_routes).where(model_routes.c.model == model)
    if state is not None:
        query = query.where(model_routes.c.state == state)
    ordered = query.order_by(model_routes.c.revision.desc())
    return [route_record(row) for row in connection.execute(ordered)]


def needed(connection: Connection, model: str) -> set[int]:
    """The versions that a route serves by, or is to serve by."""
    routes = (find_route(connection, model, "active"), find_route(connection, model, "pending"))
    return {version for route in routes if route is not None for version in route.weights}


def put_version(connection: Connection, model: str, values: Mapping[str, Any]) -> Row[Any]:
    """A new version under the next number; of a model that is new too, or comes back."""
    row = model_row(connection, model)
    if row is None:
        blank = {"name": model, "last_version": 0, "last_revision": 0, "removed": False}
        connection.execute(insert(models).values(blank))
    number = 1 if row is None else row.last_version + 1
    own = update(models).where(models.c.name == model)
    connection.execute(own.values(last_version=number, removed=False))
    new = {"model": model, "version": number, "up": True, "removed": False, **values}
    connection.execute(insert(model_versions).values(new))
    connection.execute(_RAISE)
    return version_rows(connection, model)[number]


def mark_removed(connection: Connection, model: str) -> None:
    connection.execute(update(models).where(models.c.name == model).values(removed=True))
    connection.execute(_RAISE)


def set_version(connection: Connection, model: str, version: int, **values: Any) -> None:
    own = (model_versions.c.model == model, model_versions.c.version == version)
    connection.execute(update(model_versions).where(*own).values(**values))
    connection.execute(_RAISE)


def put_route(connection: Connection, model: str, values: Mapping[str, Any]) -> Route:
    """A new pending route under the next number."""
    own = update(models).where(models.c.name == model).values(last_revision=models.c.last_revision + 1)
    number = connection.execute(own.returning(models.c.last_revision)).scalar_one()
    new = {"model": model, "revision": number, "state": "pending", **values}
    connection.execute(insert(model_routes).values(new))
    connection.execute(_RAISE)
    found = find_route(connection, model, "pending")
    assert found is not None
    return found


def set_route(connection: Connection, route: Route, **values: Any) -> None:
    own = (model_routes.c.model == route.model, model_routes.c.revision == route.revision)
    connection.execute(update(model_routes).where(*own).values(**values))
    connection.execute(_RAISE)


def version_record(row: Row[Any]) -> ModelVersion:
    return ModelVersion(
        model=row.model,
        version=row.version,
        settings=row.settings,
        source="api" if row.declared is None else "file",
        note=row.note,
        created_by=row.created_by,
        created_at=row.created_at,
        up=row.up,
        down_at=row.down_at,
    )


def route_record(row: Row[Any]) -> Route:
    return Route(
        model=row.model,
        revision=row.revision,
        weights={int(version): weight for version, weight in row.weights.items()},
        sticky=row.sticky,
        why=row.why,
        state=row.state,
        created_by=row.created_by,
        created_at=row.created_at,
        active_at=row.active_at,
        error=row.error or "",
        ended_at=row.ended_at,
    )
