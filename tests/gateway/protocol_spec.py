"""The Agent Protocol's own OpenAPI document, where it lies beside the checkout, and validators made from it."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

SPEC = Path(__file__).resolve().parents[3] / "shared/specs/agent-protocol-0.1.6.openapi.json"
needs_spec = pytest.mark.skipif(
    not SPEC.exists(), reason=f"the Agent Protocol's OpenAPI document is not at {SPEC}"
)


@cache
def spec() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(SPEC.read_text())
    return document


def operations() -> set[tuple[str, str]]:
    """Every method and path."""
    return {(method.upper(), path) for path, found in spec()["paths"].items() for method in found}


def operation(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = spec()["paths"][path][method.lower()]
    return found


def check(schema: dict[str, Any], value: Any) -> None:
    """Raises jsonschema.ValidationError. Formats (uuid, date-time, uri) are checked too."""
    whole = {**schema, "components": spec()["components"]}
    checker = jsonschema.FormatChecker()
    jsonschema.Draft202012Validator(whole, format_checker=checker).validate(value)


def check_named(name: str, value: Any) -> None:
    check({"$ref": f"#/components/schemas/{name}"}, value)
