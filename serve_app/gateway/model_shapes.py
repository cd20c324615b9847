"""Models as operators see and change them: the bodies of requests, and versions and routes in JSON."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema
from typing_extensions import TypedDict

from coordinator.store.model_records import ModelOnFile, ModelVersion, Route
from coordinator.store.model_routes import MAX_ARMS, MAX_SHARE
from serve_app.gateway.body_types import WHOLE, Metadata, OwnBody
from serve_app.gateway.model_rules import shown_settings
from serve_app.gateway.shapes import Stamp, stamp, stamp_of
from serve_app.models.names import model_app

LONGEST_KEEP_S = 30 * 24 * 3600.0
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")

VersionNumber = Annotated[int, Field(ge=1, le=999_999_999), WHOLE]
KeepS = Annotated[float, Field(ge=0, le=LONGEST_KEEP_S)]
State = Literal["waiting", "deploying", "running", "failed", "going", "down", "unknown"]
"""Of a version. `waiting`: it is to be deployed; `unknown`: who deploys does not answer now."""


def _numbers(weights: dict[str, int]) -> dict[str, int]:
    for name in weights:
        if not _NUMBER.fullmatch(name):
            raise ValueError(f"{name!r} is not the number of a version")
    return weights


Weights = Annotated[
    dict[str, Annotated[int, Field(ge=1, le=MAX_SHARE), WHOLE]],
    Field(min_length=1, max_length=MAX_ARMS),
    AfterValidator(_numbers),
    WithJsonSchema(
        {
            "type": "object",
            "minProperties": 1,
            "maxProperties": MAX_ARMS,
            "propertyNames": {"pattern": "^[1-9][0-9]{0,8}$"},
            "additionalProperties": {"type": "integer", "minimum": 1, "maximum": MAX_SHARE},
        }
    ),
]


class VersionCreate(OwnBody):
    settings: Metadata
    """Of the model, as under `models.NAME` in `manta.yaml`; what is left out is at its default."""
    note: Annotated[str, Field(max_length=1000)] = ""


class Promotion(OwnBody):
    version: VersionNumber | None = None
    """None: the newest."""
    keep_s: KeepS = 300.0
    """How long versions that no route needs any more stay up: a rollback to them is instant."""


class SplitBody(OwnBody):
    weights: Weights
    """Shares by version; they need not add up to anything."""
    sticky: Literal["run", "user", "none"] = "run"
    """What meets the same version each time."""
    keep_s: KeepS = 300.0


class ReplicasPatch(OwnBody):
    """Further fields are those of `replicas` in the settings; what is left out stays."""

    model_config = ConfigDict(extra="allow", strict=True, use_attribute_docstrings=True)
    version: VersionNumber | None = None
    """May be left out where only one version has traffic."""


class RouteJson(TypedDict):
    """Which version answers what share of a model's calls. `active_at` to `ended_at`: when it served."""

    revision: int
    weights: dict[str, int]
    sticky: str
    why: str
    state: str
    created_by: str
    created_at: Stamp
    active_at: Stamp | None
    ended_at: Stamp | None
    error: str


class VersionJson(TypedDict):
    """`share`: of the calls, 0 to 1. `down_at`: when it goes; None as long as a route needs it."""

    version: int
    state: State
    message: str
    replicas: int
    share: float
    source: str
    note: str
    created_by: str
    created_at: Stamp
    down_at: Stamp | None
    settings: dict[str, Any]


class ModelJson(TypedDict):
    """`history`: its routes, the newest first, at most 20."""

    name: str
    default: bool
    route: RouteJson | None
    pending: RouteJson | None
    versions: list[VersionJson]
    history: list[RouteJson]


States = Mapping[str, Mapping[str, Any]]
"""Of applications by name: `state`, `message`, `replicas`."""


def model_json(found: ModelOnFile, states: States | None, default: str, *, whole: bool) -> ModelJson:
    """`states` None: they are not known. `whole`: with what only who may set it gets to see."""
    weights = found.route.weights if found.route else {}
    return {
        "name": found.model,
        "default": found.model == default,
        "route": route_json(found.route) if found.route else None,
        "pending": route_json(found.pending) if found.pending else None,
        "versions": [version_json(each, states, weights, whole=whole) for each in found.versions],
        "history": [route_json(route) for route in found.history],
    }


def route_json(route: Route) -> RouteJson:
    return {
        "revision": route.revision,
        "weights": {str(version): share for version, share in sorted(route.weights.items())},
        "sticky": route.sticky,
        "why": route.why,
        "state": route.state,
        "created_by": route.created_by,
        "created_at": stamp(route.created_at),
        "active_at": stamp_of(route.active_at),
        "ended_at": stamp_of(route.ended_at),
        "error": route.error,
    }


def version_json(
    version: ModelVersion, states: States | None, weights: Mapping[int, int], *, whole: bool
) -> VersionJson:
    state, told = _state(version, states)
    share = weights.get(version.version, 0)
    return {
        "version": version.version,
        "state": state,
        "message": str(told.get("message", "")),
        "replicas": int(told.get("replicas", 0)),
        "share": share / sum(weights.values()) if share else 0.0,
        "source": version.source,
        "note": version.note,
        "created_by": version.created_by,
        "created_at": stamp(version.created_at),
        "down_at": stamp_of(version.down_at) if version.up else None,
        "settings": shown_settings(version.settings, whole=whole),
    }


def _state(version: ModelVersion, states: States | None) -> tuple[State, Mapping[str, Any]]:
    if states is None:
        return "unknown" if version.up else "down", {}
    told = states.get(model_app(version.model, version.version))
    if told is None:
        return "waiting" if version.up else "down", {}
    return told["state"], told
