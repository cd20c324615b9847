"""What may become of models: settings that can be taken and from whom, and what others need. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from coordinator.store.model_records import ModelOnFile
from manta.addresses import HIDDEN, shown_url
from manta.errors import Conflict, InvalidInput
from manta.model_settings import ModelSettings, RouterSettings, check_fallbacks

MOST = (1 << 31) - 1


def read_settings(given: Mapping[str, Any], *where: str) -> ModelSettings:
    """Raises InvalidInput, which names the first field that cannot be used, under `where`."""
    _require_ordinary(given, where)
    try:
        # As JSON, whose arrays are tuples, and nothing else is taken for what it is not.
        return ModelSettings.model_validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in (*where, *first["loc"]))
        raise InvalidInput(f"{field}: {first['msg']}", fix="see docs/configuration.md, models") from None


def _require_ordinary(value: Any, where: tuple[str, ...]) -> None:
    """Ray counts in 32 bits, and the journal has no infinity."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _require_ordinary(inner, (*where, name))
    elif isinstance(value, list):
        for inner in value:
            _require_ordinary(inner, where)
    elif isinstance(value, int | float) and not -MOST <= value <= MOST:
        raise InvalidInput(f"{'.'.join(where)}: the number is out of bounds", fix=f"{MOST} at most")


def require_replicas(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Raises InvalidInput if settings cannot have some fields of `replicas` changed so."""
    read_settings({**settings, "replicas": {**settings.get("replicas", {}), **changes}})


def for_admins(settings: ModelSettings) -> str:
    """The field that makes a replica run what the caller likes, or ask an address of the caller's, with a secret of
    the platform's say; empty if there is none."""
    launch = settings.launch
    told = {
        "launch.command": launch.command,
        "launch.args": launch.args,
        "launch.env": launch.env,
        "api_key_env": settings.api_key_env,
        # It would be read as an option of the server.
        "source": settings.backend == "server" and settings.source.startswith("-"),
        "model": settings.backend == "server" and settings.model.startswith("-"),
        # An address within reach of the platform alone, which every tenant's prompts go to; and a vendor's class
        # takes its key from the environment by itself.
        "base_url": settings.backend in ("remote", "langchain") and settings.base_url,
    }
    return next((field for field, value in told.items() if value), "")


def shown_settings(settings: Mapping[str, Any], *, whole: bool) -> dict[str, Any]:
    """For callers who could not have set them without what may hold a secret."""
    if whole:
        return dict(settings)
    shown = dict(settings)
    launch = dict(shown.get("launch") or {})
    if launch:
        launch["env"] = dict.fromkeys(launch.get("env") or {}, HIDDEN)
        for field in ("command", "args"):
            launch[field] = [HIDDEN] if launch.get(field) else []
        shown["launch"] = launch
    if shown.get("base_url"):
        shown["base_url"] = shown_url(str(shown["base_url"]))
    return shown


def require_chain(models: Sequence[ModelOnFile], name: str, versions: Sequence[Mapping[str, Any]]) -> None:
    """Raises InvalidInput if, with these versions of a name, a fallback is no model or leads back.

    Args:
        versions: their settings.
    """
    routed = {model.model: _one(_routed(model)) for model in models if model.route or model.pending}
    try:
        check_fallbacks({**routed, name: _one(versions)})
    except ValueError as error:
        raise InvalidInput(str(error), fix="`manta models list` shows which models there are") from None


def require_removable(
    models: Sequence[ModelOnFile], name: str, default: str, routers: Mapping[str, RouterSettings]
) -> None:
    """Raises Conflict for a model that others need."""
    routing = [router for router, rules in routers.items() if name in rules.models]
    needs = [
        other.model for other in models if other.model != name and name in _one(_routed(other)).fallbacks
    ]
    if name == default:
        cause, fix = "is the default model", "name another as default_model"
    elif needs:
        cause, fix = f"is a fallback of {needs[0]}", f"promote a version of {needs[0]} without it first"
    elif routing:
        cause, fix = f"is one of router {routing[0]}", "leave it out there, in manta.yaml"
    else:
        return
    raise Conflict(f"model {name!r} {cause}", fix=fix, code="model_in_use")


def versions_of(model: ModelOnFile, weights: Mapping[int, int]) -> list[dict[str, Any]]:
    """The settings of a route's versions."""
    return [version.settings for version in model.versions if version.version in weights]


def scaled_version(model: ModelOnFile, version: int | None) -> int:
    """The version that is meant where none is named. Raises Conflict if that may be several."""
    if version is not None:
        return version
    route = model.route or model.pending
    weights = list(route.weights) if route else [each.version for each in model.versions if each.up]
    if len(weights) != 1:
        raise Conflict(
            f"{len(weights)} versions of {model.model!r} have traffic",
            fix="say which version",
            code="ambiguous",
        )
    return weights[0]


def _routed(model: ModelOnFile) -> list[dict[str, Any]]:
    routes = [route for route in (model.route, model.pending) if route]
    return versions_of(model, {version: 1 for route in routes for version in route.weights})


def _one(versions: Sequence[Mapping[str, Any]]) -> ModelSettings:
    """Stands for all of them: with the fallbacks of each."""
    named = [name for version in versions for name in version.get("fallbacks") or ()]
    # Of one version also what is named twice, which is an error.
    return ModelSettings(fallbacks=tuple(named if len(versions) == 1 else dict.fromkeys(named)))
