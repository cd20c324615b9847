"""How a recorded value and the present one differ, in lines for people. Pure."""

import difflib
import json
import textwrap
from collections.abc import Sequence
from typing import Any

WIDTH = 100
MAX_LINES = 80
_CONTEXT = 2


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal, 1 and 1.0 told apart."""
    return _text(one) == _text(other)


def value_difference(recorded: Any, now: Any) -> list[str]:
    """Two JSON values as a unified diff."""
    return _diff(_value_lines(recorded), _value_lines(now))


def request_difference(recorded: dict[str, Any] | None, now: dict[str, Any] | None) -> list[str]:
    """Two requests as a unified diff: parameters first, then the messages one after the other. None is no request."""
    return _diff(_request_lines(recorded or {}), _request_lines(now or {}))


def likeness(one: dict[str, Any], other: dict[str, Any]) -> int:
    """How much two requests have in common; 0 is nothing."""
    messages = zip(one.get("messages", ()), other.get("messages", ()), strict=False)
    arguments, others = one.get("arguments", {}), other.get("arguments", {})
    shared = sum(same(mine, theirs) for mine, theirs in messages)
    return shared + sum(name in others and same(value, others[name]) for name, value in arguments.items())


def _request_lines(request: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, value in request.items():
        if name != "messages":
            lines += _field(name, value)
    for number, message in enumerate(request.get("messages", ()), 1):
        more = {name: value for name, value in message.items() if name not in ("role", "content") and value}
        lines.append(f"[{number}] {message.get('role')}")
        lines += _wrapped(str(message.get("content", "")))
        for name, value in more.items():
            lines += _field(f"  {name}", value)
    return lines


def _field(name: str, value: Any) -> list[str]:
    if value is None or value in ([], {}):
        return []
    first, *rest = _value_lines(value)
    return [f"{name}: {first}", *rest]


def _value_lines(value: Any) -> list[str]:
    if isinstance(value, str):
        return _wrapped(value)
    text = json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True)
    return [part for line in text.splitlines() for part in _wrapped(line)]


def _wrapped(text: str) -> list[str]:
    lines: list[str] = []
    for line in text.splitlines() or [""]:
        lines += textwrap.wrap(line, WIDTH, replace_whitespace=False, drop_whitespace=False) or [""]
    return lines


def _diff(recorded: Sequence[str], now: Sequence[str]) -> list[str]:
    found = list(difflib.unified_diff(recorded, now, "recorded", "now", n=_CONTEXT, lineterm=""))
    return _limited(found)


def _limited(lines: Sequence[str]) -> list[str]:
    if len(lines) <= MAX_LINES:
        return list(lines)
    return [*lines[:MAX_LINES], f"... and {len(lines) - MAX_LINES} more lines"]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
