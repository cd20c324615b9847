"""What the user says of a model, as the service takes it: settings from a file and options, shares of versions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from manta.errors import InvalidInput
from manta.model_settings import ReplicaSettings


def read_settings(
    name: str, file: Path | None, given: Mapping[str, Any], extra: Sequence[str]
) -> dict[str, Any]:
    """The settings of a model: of the file, then of options (None is left out), then of `KEY=VALUE`."""
    settings = read_file(name, file) if file is not None else {}
    for key, value in given.items():
        if value is not None:
            put(settings, key, value)
    for each in extra:
        put(settings, *read_setting(each))
    if not settings:
        raise InvalidInput("nothing is said of the model", fix="give --file, or --backend and --source")
    return settings


def read_file(name: str, file: Path) -> dict[str, Any]:
    """A YAML file with the settings of one model, or one like `manta.yaml`, of which those of `name` are taken."""
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"cannot read {file}: {error.strerror}", fix="check the path") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidInput(f"{file} is not YAML: {' '.join(str(error).split())}", fix="mend it") from None
    if isinstance(data, dict) and isinstance(data.get("models"), dict):
        if name not in data["models"]:
            there = ", ".join(map(str, data["models"])) or "none"
            raise InvalidInput(f"{file} has no model {name!r}", fix=f"it has: {there}")
        data = data["models"][name] or {}
    if not isinstance(data, dict):
        raise InvalidInput(f"{file} does not hold settings", fix="as under models.NAME in manta.yaml")
    plain: dict[str, Any] = require_json(str(file), data)
    return plain


def read_setting(text: str) -> tuple[str, Any]:
    """`replicas.max=4`: a place, and its value in YAML."""
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise InvalidInput(f"--set cannot be {text!r}", fix="KEY=VALUE, as --set replicas.max=4")
    try:
        return key, require_json(f"--set {key}", yaml.safe_load(value))
    except (yaml.YAMLError, ValueError):
        raise InvalidInput(f"--set {key}: the value is not YAML: {value!r}", fix="quote it") from None


def read_changes(given: Mapping[str, Any], extra: Sequence[str]) -> dict[str, Any]:
    """Fields of `replicas`: of options (None is left out), then of `KEY=VALUE`."""
    changes = {key: value for key, value in given.items() if value is not None}
    for each in extra:
        key, value = read_setting(each)
        if key == "version":
            raise InvalidInput("--set version is no setting of replicas", fix="name a version by --version")
        if key.split(".")[0] not in ReplicaSettings.model_fields:
            there = ", ".join(ReplicaSettings.model_fields)
            raise InvalidInput(f"--set {key}: replicas has no such setting", fix=f"it has: {there}")
        put(changes, key, value)
    if not changes:
        raise InvalidInput("nothing is to be changed", fix="give --min, --max or --set")
    return changes


def require_json(what: str, value: Any) -> Any:
    """The value as JSON has it. Raises InvalidInput for what YAML has beyond that: dates, infinity, circles."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{what}: this has no place in JSON: {error}", fix="put dates and the like in quotes"
        ) from None


def put(settings: dict[str, Any], key: str, value: Any) -> None:
    """Sets the value at a place, `replicas.max` say. Raises InvalidInput where there is another value on its way."""
    *path, last = key.split(".")
    inner = settings
    for part in path:
        found = inner.setdefault(part, {})
        if not isinstance(found, dict):
            raise InvalidInput(f"{key} cannot be set: {part} is no section", fix="see docs/configuration.md")
        inner = found
    inner[last] = value


def read_weights(words: Sequence[str]) -> dict[int, int]:
    """`1=90 2=10`: shares by version."""
    weights: dict[int, int] = {}
    for word in words:
        version, _, share = word.partition("=")
        if not (_is_number(version) and _is_number(share)):
            raise InvalidInput(
                f"no share of a version: {word!r}",
                fix="VERSION=SHARE, as in: manta models split NAME 1=90 2=10",
            )
        if int(version) in weights:
            raise InvalidInput(f"version {version} is there twice", fix="give each version one share")
        weights[int(version)] = int(share)
    return weights


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text) > 0
