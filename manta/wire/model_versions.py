"""Models as operators see them: versions, the routes between them, and how a change ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx

from manta.errors import Conflict, PlatformError
from manta.wire.call import Call, given, nothing, part
from manta.wire.model_comparison import Comparison, comparison_of
from manta.wire.values import moment

LOOK_S = 1.0
"""Between two looks at a change that is under way."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A model's settings under a number. `share`: of the calls, 0 to 1.

    `state`: `waiting` (to be deployed), `deploying`, `running`, `failed`, `going`, `down`, or `unknown` while who
    deploys does not answer; `message` says why. `down_at`: when it goes down because no route needs it.
    """

    version: int
    state: str
    message: str = ""
    replicas: int = 0
    share: float = 0.0
    source: str = ""
    note: str = ""
    created_by: str = ""
    created_at: datetime | None = None
    down_at: datetime | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """Which version answers what share of a model's calls: `weights` by version.

    `state`: `pending` (its versions are being deployed), `active`, `past` or `failed`, with its `error`.
    `sticky`: what meets the same version again: `run`, `user` or `none`.
    """

    revision: int
    weights: dict[int, int]
    sticky: str
    why: str
    state: str
    created_by: str = ""
    created_at: datetime | None = None
    active_at: datetime | None = None
    ended_at: datetime | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """`route` is the active one, `pending` the one to follow it; `history` has the newest first."""

    name: str
    default: bool
    route: ModelRoute | None
    pending: ModelRoute | None
    versions: tuple[ModelVersion, ...]
    history: tuple[ModelRoute, ...] = ()

    def version(self, number: int) -> ModelVersion | None:
        return next((version for version in self.versions if version.version == number), None)


def settled(model: Model, revision: int) -> ModelRoute | None:
    """The route of this revision once it serves, or has served; None while it is pending.

    Raises:
        Conflict: code `route_failed`, it never will.
    """
    routes = [route for route in (model.route, *model.history) if route and route.revision == revision]
    if not routes or routes[0].state == "pending":
        return None
    if routes[0].state == "failed":
        raise Conflict(
            f"model {model.name!r} stays as it is, the change failed: {routes[0].error}",
            fix=f"manta models status {model.name}",
            code="route_failed",
        )
    return routes[0]


def up(model: Model, number: int) -> ModelVersion | None:
    """The version once it runs; None while it is on its way.

    Raises:
        Conflict: code `version_failed`, it does not start. Code `version_down`: it was taken down.
    """
    version = model.version(number)
    if version is None or version.state in ("going", "down"):
        raise Conflict(
            f"version {number} of {model.name!r} was taken down", fix="add it again", code="version_down"
        )
    if version.state == "failed":
        raise Conflict(
            f"version {number} of {model.name!r} does not start: {version.message}",
            fix=f"mend it and add it again, or: manta models remove {model.name} --version {number}",
            code="version_failed",
        )
    return version if version.state == "running" else None


def late(name: str, revision: int, timeout: float) -> PlatformError:
    return PlatformError(
        f"route {revision} of {name!r} does not serve after {timeout:g} s and is still on its way",
        fix=f"manta models status {name}",
        code="wait_timeout",
    )


def models() -> Call[Sequence[Model]]:
    return Call("GET", "/models", lambda r: [model_of(m) for m in r.json()], repeatable=True)


def get(name: str) -> Call[Model]:
    return Call("GET", _path(name), lambda r: model_of(r.json()), repeatable=True)


def add(name: str, settings: Mapping[str, Any], note: str, key: str) -> Call[ModelVersion]:
    body = {"settings": dict(settings), "note": note}
    headers = {"Idempotency-Key": key}
    return Call("POST", _path(name, "versions"), _version, json=body, headers=headers, repeatable=True)


def promote(name: str, version: int | None, keep_s: float | None) -> Call[ModelRoute]:
    body = given(version=version, keep_s=keep_s)
    return Call("POST", _path(name, "promote"), _route, json=body, repeatable=True)


def split(name: str, weights: Mapping[int, int], sticky: str, keep_s: float | None) -> Call[ModelRoute]:
    shares = {str(version): share for version, share in weights.items()}
    body = given(weights=shares, sticky=sticky, keep_s=keep_s)
    return Call("POST", _path(name, "split"), _route, json=body, repeatable=True)


def rollback(name: str) -> Call[ModelRoute]:
    """Not repeatable: a second one would go back from where the first has led."""
    return Call("POST", _path(name, "rollback"), _route)


def scale(name: str, version: int | None, changes: Mapping[str, Any]) -> Call[ModelVersion]:
    body = {**changes, **given(version=version)}
    return Call("PATCH", _path(name, "replicas"), _version, json=body, repeatable=True)


def remove(name: str, version: int | None) -> Call[None]:
    path = _path(name) if version is None else _path(name, "versions", str(version))
    return Call("DELETE", path, nothing)


def comparison(name: str, revision: int | None) -> Call[Comparison]:
    params = given(revision=revision)
    path = _path(name, "comparison")
    return Call("GET", path, lambda r: comparison_of(r.json()), params=params, repeatable=True)


def replicas(name: str) -> Call[Sequence[dict[str, Any]]]:
    return Call("GET", _path(name, "replicas"), lambda r: list(r.json()), repeatable=True)


def model_of(data: Mapping[str, Any]) -> Model:
    return Model(
        name=str(data["name"]),
        default=bool(data.get("default")),
        route=route_of(data["route"]) if data.get("route") else None,
        pending=route_of(data["pending"]) if data.get("pending") else None,
        versions=tuple(version_of(version) for version in data["versions"]),
        history=tuple(route_of(route) for route in data.get("history") or ()),
    )


def version_of(data: Mapping[str, Any]) -> ModelVersion:
    known = {name: data[name] for name in _VERSION_FIELDS if name in data}
    return ModelVersion(**known, **_moments(data, "created_at", "down_at"))


def route_of(data: Mapping[str, Any]) -> ModelRoute:
    known = {name: data[name] for name in _ROUTE_FIELDS if name in data}
    weights = {int(version): int(share) for version, share in data["weights"].items()}
    return ModelRoute(weights=weights, **known, **_moments(data, "created_at", "active_at", "ended_at"))


_VERSION_FIELDS = (
    "version",
    "state",
    "message",
    "replicas",
    "share",
    "source",
    "note",
    "created_by",
    "settings",
)
_ROUTE_FIELDS = ("revision", "sticky", "why", "state", "created_by", "error")


def _moments(data: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: moment(data[name]) for name in names if data.get(name)}


def _version(response: httpx.Response) -> ModelVersion:
    return version_of(response.json())


def _route(response: httpx.Response) -> ModelRoute:
    return route_of(response.json())


def _path(name: str, *rest: str) -> str:
    return "/".join(("/models", part(name), *rest))
