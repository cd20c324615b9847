"""The models of the settings file against those on file: only what changed in the file changes here."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, Row, select

from coordinator.store.model_routes import Wish, activate, ask_for, retire
from coordinator.store.model_rows import (
    model_row,
    put_version,
    set_version,
    version_rows,
)
from coordinator.store.model_schema import model_versions, models
from coordinator.store.model_versions import alike, remove_model
from manta.model_settings import ReplicaSettings

BY_THE_FILE = "manta.yaml"


def declare(connection: Connection, declared: Mapping[str, dict[str, Any]], now: float) -> None:
    """See `Models.declare`."""
    for name, settings in sorted(declared.items()):
        _declare(connection, name, settings, now)
    for (name,) in connection.execute(select(models.c.name).where(models.c.removed.is_(False))).all():
        there = version_rows(connection, name)
        if name not in declared and all(row.declared is not None for row in there.values()):
            remove_model(connection, name, now, 0.0)
    overdue = select(model_versions.c.model, model_versions.c.version)
    for model, version in connection.execute(overdue.where(model_versions.c.down_at <= now)).all():
        retire(connection, model, version, now)


def _declare(connection: Connection, name: str, settings: dict[str, Any], now: float) -> None:
    row = model_row(connection, name)
    there = {} if row is None or row.removed else version_rows(connection, name)
    last = next((row for row in reversed(there.values()) if row.declared is not None), None)
    if last is not None and alike(last.declared, settings):
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
    route = ask_for(connection, name, Wish({version: 100}, "run", "declared", 0.0, BY_THE_FILE), now)
    activate(connection, name, route.revision, now)


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
