"""A tool's parameters as a form enforces them: no arguments but those that are named."""

from collections.abc import Mapping
from typing import Any

_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "$defs", "definitions")


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with every object that names its properties, and says nothing of others, closed to others.

    As OpenAI's strict mode asks of its callers: a function has no use for arguments that it does not know, and a
    weak model goes on inventing them.
    """
    result = dict(schema)
    for key in _NAMED:
        if isinstance(result.get(key), Mapping):
            result[key] = {name: _closed(part) for name, part in result[key].items()}
    for key in _LISTS:
        if isinstance(result.get(key), list):
            # Parts of an allOf see each other's properties as additional.
            result[key] = [part if key == "allOf" else _closed(part) for part in result[key]]
    if isinstance(result.get("items"), Mapping):
        result["items"] = closed(result["items"])
    if "properties" in result and not ({"allOf", "$ref"} & result.keys()):
        result.setdefault("additionalProperties", False)
    return result


def _closed(part: Any) -> Any:
    return closed(part) if isinstance(part, Mapping) else part
