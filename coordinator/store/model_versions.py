"""What is asked of a model's versions before they change, and how they go."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, select

from coordinator.routes import by_share
from coordinator.store.model_records import ModelVersion
from coordinator.store.model_rows import (
    find_route,
    mark_removed,
    model_row,
    set_route,
    set_version,
    version_record,
    version_rows,
)
from coordinator.store.model_schema import model_versions
from coordinator.store.rows import require_name
from manta.errors import Conflict, IdempotencyConflict, InvalidInput, NotFound
from manta.model_settings import ModelSettings, ReplicaSettings

MAX_NOTE = 1000
PRINT = "."
"""In an idempotency key: behind it stands a hash of what was asked."""


def remove_model(connection: Connection, model: str, now: float, grace_s: float) -> None:
    """No route leads to it any more, and in `grace_s` seconds its versions may go down."""
    active, pending = (find_route(connection, model, "active"), find_route(connection, model, "pending"))
    if active is not None:
        set_route(connection, active, state="past", ended_at=now)
    if pending is not None:
        set_route(connection, pending, state="failed", error="the model was removed", ended_at=now)
    for version in version_rows(connection, model):
        remove_version(connection, model, version, now + grace_s)
    mark_removed(connection, model)


def remove_version(connection: Connection, model: str, version: int, down_at: float) -> None:
    set_version(connection, model, version, removed=True, down_at=down_at)


def alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether settings are equal but for the replicas. What only one of them names is at its default."""
    return _apart_from_replicas(one) == _apart_from_replicas(other)


def _apart_from_replicas(settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        # A newer Manta has more fields than the one that wrote it.
        return ModelSettings.model_validate(settings).model_dump(mode="json", exclude={"replicas"})
    except ValidationError:
        return {name: value for name, value in settings.items() if name != "replicas"}


def made_by_key(connection: Connection, model: str, values: Mapping[str, Any]) -> ModelVersion | None:
    """The version that the same request made before.

    What stands in a key behind `PRINT` tells requests apart that use the same key. Without it settings and note are
    compared; replicas are not, as they may have been scaled since.

    Raises:
        IdempotencyConflict: it was another request. Conflict: code `version_removed`.
    """
    key = values["idempotency_key"]
    if key is None:
        return None
    name, mark, _ = key.partition(PRINT)
    column = model_versions.c.idempotency_key
    used = column.startswith(f"{name}{PRINT}", autoescape=True) if mark else column == key
    row = connection.execute(select(model_versions).where(model_versions.c.model == model, used)).first()
    if row is None:
        return None
    same = alike(row.settings, values["settings"]) and row.note == values["note"]
    if row.idempotency_key != key or not (mark or same):
        raise IdempotencyConflict(
            "this idempotency key was used for a version with other settings or another note",
            fix="use another key",
        )
    if row.removed:
        raise Conflict(
            f"version {row.version} of {model}, which this idempotency key made, was removed",
            fix="use another key",
            code="version_removed",
        )
    return version_record(row)


def require_new(connection: Connection, model: str, settings: Mapping[str, Any]) -> None:
    row = model_row(connection, model)
    there = {} if row is None or row.removed else version_rows(connection, model)
    last = next((row for row in reversed(there.values()) if row.up), None)
    if last is not None and alike(last.settings, settings):
        raise Conflict(
            f"version {last.version} of {model} has these settings",
            fix="promote it; other replicas are not another version: scale it",
            code="model_version_exists",
        )


def newest(connection: Connection, model: str) -> int:
    there = version_rows(connection, model)
    if not there:
        raise NotFound(f"model {model} has no version", fix="add one", code="version_not_found")
    return max(there)


def primary(connection: Connection, model: str) -> int:
    """The version with the largest share, of equal ones the newest; without a route the newest of all."""
    active = find_route(connection, model, "active")
    if active is None:
        return newest(connection, model)
    return by_share(active.weights)[0]


def merged_replicas(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return ReplicaSettings.model_validate({**old, **new}).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(("replicas", *map(str, first["loc"])))
        raise InvalidInput(f"{where}: {first['msg']}", fix="see docs/configuration.md") from None


def is_removed(connection: Connection, model: str, version: int) -> bool:
    own = (model_versions.c.model == model, model_versions.c.removed.is_(True))
    removed = connection.execute(select(model_versions.c.version).where(*own)).scalars()
    return version in set(removed)


def checked_by(by: str) -> str:
    return require_name("who does it", by) if by else ""


def checked_note(note: str) -> str:
    if not isinstance(note, str) or len(note) > MAX_NOTE:
        raise InvalidInput(f"a note may have {MAX_NOTE} characters", fix="say it in fewer words")
    return note
