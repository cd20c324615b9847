"""Renders messages into the prompt a model was trained on, by its own Jinja template in a sandbox."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from manta.errors import InvalidInput, ModelLoadError

T = TypeVar("T")


class ChatTemplate:
    """A compiled template. `tokens` are names such as `bos_token` that templates refer to."""

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _now
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ModelLoadError(
                f"the chat template is broken: {error}", fix="get the model files again"
            ) from error
        self._tokens = dict(tokens)
        self.source = source

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> str:
        """The prompt, ending where the assistant speaks. Raises InvalidInput when the template refuses."""
        try:
            return self._template.render(
                messages=list(messages),
                tools=list(tools) if tools else None,
                add_generation_prompt=True,
                **self._tokens,
            )
        except (TemplateError, TypeError) as error:
            raise InvalidInput(
                f"the model's chat template refused the messages: {error}",
                fix="give each message a role and a text content",
            ) from error


def defused(value: T, special: Sequence[str]) -> T:
    """The same JSON value, where no string holds a special token any more: a space breaks it up."""
    if isinstance(value, str):
        for token in special:
            if token in value:
                value = value.replace(token, f"{token[0]} {token[1:]}")  # type: ignore[assignment]
        return value
    if isinstance(value, Mapping):
        return {defused(key, special): defused(entry, special) for key, entry in value.items()}  # type: ignore[return-value]
    if isinstance(value, list):
        return [defused(entry, special) for entry in value]  # type: ignore[return-value]
    return value


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML, which a prompt must not be.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now(UTC).strftime(form)
