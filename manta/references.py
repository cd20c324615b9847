"""References: `${...}` around a JMESPath expression, found, checked and filled in.

A string that is one reference keeps the value's type; references inside a longer string become text.
`$${` in a text stands for `${` itself.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any

import jmespath.exceptions

from manta.errors import StepError
from manta.expressions import Expression, expression

_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`(?:[^`\\]|\\.)*`"
_PLAIN = rf"[^{{}}'\"`]|{_QUOTED}"
# JMESPath has braces of its own, around objects; three of them in one another are enough.
_BRACES = rf"\{{(?:{_PLAIN})*\}}"
for _ in range(2):
    _BRACES = rf"\{{(?:{_PLAIN}|{_BRACES})*\}}"
REFERENCE = re.compile(rf"(?<!\$)\$\{{((?:{_PLAIN}|{_BRACES})*)\}}")
_OPENING = re.compile(r"(?<!\$)\$\{")


def resolve(template: Any, scope: Mapping[str, Any]) -> Any:
    """Replace the references in `template` by the values in `scope`; a missing value is None.

    Raises:
        StepError: a reference does not fit the values, `length(input.n)` of a number say.
    """
    if isinstance(template, str):
        return _resolve_text(template, scope) if "${" in template else template
    if isinstance(template, Mapping):
        return {key: resolve(value, scope) for key, value in template.items()}
    if isinstance(template, list | tuple):
        return [resolve(value, scope) for value in template]
    return template


def expressions(template: Any) -> Iterator[str]:
    """Every reference in a template, without its `${}`.

    Raises:
        ValueError: one is not closed.
    """
    if isinstance(template, str):
        if "${" in template:
            yield from (inner for inner, is_reference in _pieces(template) if is_reference)
    elif isinstance(template, Mapping):
        for value in template.values():
            yield from expressions(value)
    elif isinstance(template, list | tuple):
        for value in template:
            yield from expressions(value)


def steps_in(text: str) -> tuple[str, ...]:
    """The ids of the steps that an expression refers to. Raises ValueError for what is not JMESPath."""
    return _compiled(text).steps


def names_in(text: str) -> frozenset[str]:
    """The values that an expression names: `input`, `steps`, `item`... Raises ValueError likewise."""
    return _compiled(text).names


def compile_expression(text: str, where: str, names: Collection[str]) -> None:
    """Check an expression that may name no other values than `names`.

    Raises:
        ValueError: naming `where`, with the reason.
    """
    try:
        compiled = _compiled(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if compiled.fault is not None:
        raise ValueError(f"{where}: ${{{text}}}: {compiled.fault}")
    unknown = sorted(compiled.names - set(names))
    if unknown:
        there = ", ".join(sorted(names))
        raise ValueError(f"{where}: ${{{text}}}: there is no {unknown[0]!r} here; there are {there}")


def _compiled(text: str) -> Expression:
    try:
        return expression(text)
    except jmespath.exceptions.JMESPathError as error:
        raise ValueError(f"${{{text}}} is not JMESPath: {str(error).splitlines()[0]}") from None


@lru_cache(maxsize=8192)
def _pieces(text: str) -> tuple[tuple[str, bool], ...]:
    """The text in parts, each with whether it is (the inside of) a reference. Raises ValueError."""
    pieces: list[tuple[str, bool]] = []
    end = 0
    for match in REFERENCE.finditer(text):
        pieces += [(text[end : match.start()], False), (match[1], True)]
        end = match.end()
    pieces.append((text[end:], False))
    for piece, is_reference in pieces:
        if not is_reference and _OPENING.search(piece):
            raise ValueError(f"a reference is not closed, or its quotes are not: {piece.strip()[:80]}")
    return tuple(
        (piece if is_reference else piece.replace("$${", "${"), is_reference)
        for piece, is_reference in pieces
        if piece or is_reference
    )


def _resolve_text(text: str, scope: Mapping[str, Any]) -> Any:
    pieces = _pieces(text)
    if len(pieces) == 1:
        inner, is_reference = pieces[0]
        return _search(inner, scope) if is_reference else inner
    return "".join(as_text(_search(p, scope)) if is_reference else p for p, is_reference in pieces)


def _search(text: str, scope: Mapping[str, Any]) -> Any:
    try:
        return expression(text).search(scope)
    except Exception as error:
        # JMESPath raises its own errors for most values that do not fit, and Python's for the rest.
        cause = f"${{{text}}} does not fit the values: {' '.join(str(error).split())[:200]}"
        raise StepError(
            cause, fix="mend the reference, or the step before it", code="bad_reference"
        ) from error


def as_text(value: Any) -> str:
    """A value within a text: null is empty, what is no text is JSON."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
