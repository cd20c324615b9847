"""Answers that have to be JSON of a schema: how they are asked for, read and judged."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import referencing
import referencing.exceptions

from manta.errors import InvalidInput

_FENCE = re.compile(r"```[a-zA-Z]*\s*\n(.*?)```", re.S)
_OPENING = re.compile(r"[{\[]")
_STARTS = 50
"""Places in a text at which a JSON value is looked for."""


def json_schema_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON Schema as OpenAI's `response_format`."""
    name = str(schema.get("title") or "answer")
    return {"type": "json_schema", "json_schema": {"name": name, "schema": dict(schema), "strict": True}}


def schema_request(schema: Mapping[str, Any]) -> str:
    """The same, said in words to a model that takes no `response_format`."""
    text = json.dumps(schema, ensure_ascii=False)
    return f"Answer only with JSON that follows this JSON Schema, without any other words:\n{text}"


class SchemaReader:
    """Reads answers by one schema. References to other files are not followed.

    Raises:
        InvalidInput: code `invalid_schema`, it is not a JSON Schema.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        kind = jsonschema.Draft202012Validator
        try:
            kind.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise _bad_schema(error.message) from None
        self._validator = kind(schema, registry=referencing.Registry())

    def read(self, text: str) -> tuple[Any, str]:
        """The value in an answer and what is wrong with it, empty when nothing is.

        A value may be wrapped in a code fence or in words: models do that however they are asked.
        """
        problem = "it is not JSON"
        for value in _values(text):
            wrong = self._wrong(value)
            if not wrong:
                return value, ""
            problem = wrong if problem == "it is not JSON" else problem
        return None, problem

    def _wrong(self, value: Any) -> str:
        try:
            error = next(iter(self._validator.iter_errors(value)), None)
        except referencing.exceptions.Unresolvable as error:
            raise _bad_schema(f"it refers to {error.ref}") from None
        if error is None:
            return ""
        where = ".".join(map(str, error.absolute_path))
        return f"{where}: {error.message[:300]}" if where else error.message[:300]


def _values(text: str) -> Iterator[Any]:
    """The JSON values a text may mean, the likeliest first."""
    for candidate in (text, *_FENCE.findall(text)):
        try:
            yield json.loads(candidate.strip(), parse_constant=_no_constant)
        except (ValueError, RecursionError):
            continue
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    end = 0
    for number, start in enumerate(match.start() for match in _OPENING.finditer(text)):
        if number >= _STARTS:
            return
        if start < end:  # Inside a value that was read already.
            continue
        try:
            value, end = decoder.raw_decode(text, start)
            yield value
        except (ValueError, RecursionError):
            continue


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _bad_schema(cause: str) -> InvalidInput:
    return InvalidInput(
        f"json_schema is no schema: {cause[:200]}", fix="mend the prompt's json_schema", code="invalid_schema"
    )
