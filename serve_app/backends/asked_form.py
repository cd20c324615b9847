"""The form that a request's `response_format` asks for."""

from collections.abc import Mapping
from typing import Any

from manta.errors import InvalidInput
from serve_app.engine.forms import form as forms
from serve_app.engine.forms.form import Form

_KINDS = "text, json_object, json_schema, regex, choice or grammar"


def asked_form(response_format: Mapping[str, Any] | None) -> Form | None:
    """None for free text. Raises InvalidInput for what is not as in OpenAI's API or in `ChatRequest`."""
    if response_format is None:
        return None
    match response_format.get("type"):
        case "text":
            return None
        case "json_object":
            return forms.json_object()
        case "json_schema":
            return _schema(response_format.get("json_schema"))
        case "regex":
            return forms.regex(_text(response_format, "regex"))
        case "choice":
            return _choice(response_format.get("choice"))
        case "grammar":
            return forms.lark(_text(response_format, "grammar"))
    kind = str(response_format.get("type"))[:40]
    raise InvalidInput(f"response_format cannot be of type {kind!r}", fix=f"use {_KINDS}")


def _schema(given: Any) -> Form:
    schema = given.get("schema") if isinstance(given, Mapping) else None
    if not isinstance(given, Mapping) or not isinstance(schema, Mapping):
        raise InvalidInput(
            "response_format has no schema", fix='{"type": "json_schema", "json_schema": {"schema": {...}}}'
        )
    # Without `strict: false` a keyword that cannot be enforced is refused: the answer always fits the schema.
    return forms.json_schema(schema, lenient=given.get("strict") is False)


def _choice(texts: Any) -> Form:
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidInput("response_format of type choice needs texts", fix='{"choice": ["yes", "no"]}')
    return forms.choice(texts)


def _text(given: Mapping[str, Any], key: str) -> str:
    value = given.get(key)
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"response_format of type {key} needs a text under {key!r}", fix="give it")
    return value
