"""The models of the settings file against those on file: only what changed in the file changes here."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, Row, null, select

from coordinator.store.model_routes import Wish, activate, ask_for, retire
from coordinator.store.model_rows import (
    find_route,
    model_row,
    put_version,
    set_version,
    version_rows,
)
from coordinator.store.model_schema import model_versions, models
from coordinator.store.model_versions import alike, remove_model
from manta.model_settings import ReplicaSettings

BY_THE_FILE = "manta.yaml"
SERVING_KEEP_S = 300.0
"""How long versions that the file replaces stay up, where a platform is at work."""


def declare(
    connection: Connection, declared: Mapping[str, dict[str, Any]], now: float, *, serving: bool
) -> None:
    """See `Models.declare`."""
    for name, settings in sorted(declared.items()):
        _declare(connection, name, settings, now, serving=serving)
    for (name,) in connection.execute(select(models.c.name).where(models.c.removed.is_(False))).all():
        there = version_rows(connection, name)
        if name not in declared and all(row.declared is not None for row in there.values()):
            remove_model(connection, name, now, 0.0)
    if serving:
        # The keeper that is at work retires what is over.
        return
    overdue = select(model_versions.c.model, model_versions.c.version)
    for model, version in connection.execute(overdue.where(model_versions.c.down_at <= now)).all():
        retire(connection, model, version, now)


def _declare(
    connection: Connection, name: str, settings: dict[str, Any], now: float, *, serving: bool
) -> None:
    last = _last_declared(connection, name)
    if last is not None and alike(last.declared, settings):
        # A version that was removed by hand has not become another one by that.
        if not last.removed:
            _scale(connection, last, settings)
        return
    values = {
        "settings": settings,
        "declared": settings,
        "note": "",
        "created_by": BY_THE_FILE,
        "created_at": now,
    }
    version = put_version(connection, name, values).version
    keep_s = SERVING_KEEP_S if serving else 0.0
    route = ask_for(connection, name, Wish({version: 100}, "run", "declared", keep_s, BY_THE_FILE), now)
    if not (serving and find_route(connection, name, "active")):
        activate(connection, name, route.revision, now)


def _last_declared(connection: Connection, name: str) -> Row[Any] | None:
    """The newest version that came from a file, also one that was removed since; not of a model that was removed."""
    row = model_row(connection, name)
    if row is None or row.removed:
        return None
    declared = (model_versions.c.model == name, model_versions.c.declared.is_not(null()))
    newest = select(model_versions).where(*declared).order_by(model_versions.c.version.desc()).limit(1)
    return connection.execute(newest).one_or_none()


def _scale(connection: Connection, last: Row[Any], settings: dict[str, Any]) -> None:
    """Replicas as the file has them now, if it says otherwise than it did."""
    if _replicas(last.declared) == _replicas(settings):
        return
    scaled = {**last.settings, "replicas": settings.get("replicas", {})}
    set_version(connection, last.model, last.version, settings=scaled, declared=settings)


def _replicas(settings: Mapping[str, Any]) -> Any:
    given = settings.get("replicas", {})
    try:
        return ReplicaSettings.model_validate(given).model_dump(mode="json")
    except ValidationError:
        return given
