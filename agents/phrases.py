"""How numbers, ranges and columns read in a statement. No rounding here: a statement repeats what was printed."""

from collections.abc import Mapping
from typing import Any

from agents.sentences import canonical
from agents.table_profile import ColumnProfile, Load


def measure_name(column: ColumnProfile) -> str:
    return (
        column.words
        if any(c.isupper() for c in column.words[1:])
        else column.words[:1].lower() + column.words[1:]
    )


def title_name(column: ColumnProfile) -> str:
    return column.words[:1].upper() + column.words[1:]


def axis_name(column: ColumnProfile) -> str:
    unit = column.sign or column.measured_in
    return f"{column.words} ({unit})" if unit else column.words


def amount(number: float, column: ColumnProfile) -> str:
    return money(number, column.sign) if column.sign else f"{plain(number)}{unit_behind(column.measured_in)}"


def span(row: Mapping[str, Any], name: str, sign: str, unit: str = "") -> str:
    """`$9.00–$18.00`, `2 to 3`, or one value where both ends are equal; empty where the row has none."""
    low, high = (row.get(f"{name}_{end}" if name else end) for end in ("low", "high"))
    if low is None or high is None:
        return ""
    ends = [money(end, sign) if sign else plain(end) for end in (low, high)]
    text = ends[0] if low == high else f"{ends[0]}–{ends[1]}" if sign else f"{ends[0]} to {ends[1]}"
    return f"{text}{unit_behind(unit)}" if not sign else text


def unit_behind(unit: str) -> str:
    return "" if not unit else unit if unit == "%" else f" {unit}"


def money(number: float, sign: str) -> str:
    minus, size = ("-" if number < 0 else ""), abs(number)
    return f"{minus}{sign}{size:,.2f}" if size >= 1 or size == 0 else f"{minus}{sign}{_digits(size)}"


def _digits(size: float) -> str:
    text = f"{size:.10f}".rstrip("0")
    return text + "0" if len(text.split(".")[1]) < 2 else text


def plain(number: float) -> str:
    whole, dot, rest = canonical(f"{abs(number):.10f}").partition(".")
    return f"{'-' if number < 0 else ''}{int(whole):,}{dot}{rest}"


def short_time(load: Load) -> str:
    return {1: "s", 60: "min", 3600: "h", 86_400: "day"}.get(load.seconds, f"{load.seconds} s")
