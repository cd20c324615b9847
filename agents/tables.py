"""Reading tables whose columns nobody described: cells to numbers and ranges, columns to kinds.

Standard library only and no import of ours: the analyst copies this file into the sandbox beside the data, where
the code it writes imports it as `manta_tables`.
"""

import csv
import io
import re
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

MAX_ROWS = 200_000
_MISSING = frozenset({"", "-", "–", "—", "n/a", "na", "nan", "null", "none", "?"})
_NUM = r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:[.,]\d+)?(?:[eE][+-]?\d+)?|[+-]?\.\d+"
_CELL = re.compile(
    rf"^[~≈]?\s*(?P<currency>[$€£¥]|USD|EUR|GBP)?\s*(?P<low>{_NUM})\s*(?P<scale>[kKMB](?![A-Za-z/]))?\s*(?:%)?"
    rf"(?:\s*(?:-|–|—|to|\.\.)\s*[$€£¥]?\s*(?P<high>{_NUM})\s*(?P<scale2>[kKMB](?![A-Za-z/]))?)?"
    r"\s*(?P<unit>%|[A-Za-z°µ$€£/²³]{1,12}(?:[ /][A-Za-z/]{1,12}){0,2})?$"
)
_SCALE = {"k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9}
_DATES = ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y-%m", "%b %Y", "%B %Y", "%d %b %Y")
_CURRENCY = {"$": "$", "USD": "$", "€": "€", "EUR": "€", "£": "£", "GBP": "£", "¥": "¥"}


class NotATable(Exception):
    """The file holds no table; the text says why."""


@dataclass(frozen=True)
class Value:
    """A number, or a range of two; a single number has `low == high`."""

    low: float
    high: float
    currency: str = ""
    unit: str = ""

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2


@dataclass(frozen=True)
class Column:
    """`kind`: number, range, date, category, text, id or empty. `values` has one entry per row, None where missing:
    a Value for number and range, an ISO string for date, the cell's text otherwise."""

    name: str
    kind: str
    values: tuple[Any, ...]
    unit: str = ""
    currency: str = ""

    @property
    def distinct(self) -> list[Any]:
        return list(dict.fromkeys(v for v in self.values if v is not None))


@dataclass(frozen=True)
class Table:
    columns: tuple[Column, ...]
    rows: int

    def __getitem__(self, name: str) -> tuple[Any, ...]:
        """The values of the column of that name."""
        return next(column.values for column in self.columns if column.name == name)


def read_table(path: str | Path) -> Table:
    """Read delimited text (comma, semicolon, tab or bar), whatever its columns.

    Raises:
        NotATable: the file is empty, binary, or not a header with rows of the same width.
    """
    text = _decode(Path(path).read_bytes())
    delimiter = _delimiter(text)
    rows = [
        row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(cell.strip() for cell in row)
    ]
    if len(rows) < 2:
        raise NotATable("it has no row below the header")
    if len(rows) > MAX_ROWS:
        raise NotATable(f"it has more than {MAX_ROWS} rows")
    width = len(rows[0])
    ragged = sum(len(row) != width for row in rows)
    if width < 2 or ragged > 0.1 * len(rows):
        raise NotATable(
            "its lines do not have the same columns" if width > 1 else "its lines have one column only"
        )
    header, body = _header(rows)
    cells = [[(row[i].strip() if i < len(row) else "") for row in body] for i in range(width)]
    return Table(tuple(_column(name, column) for name, column in zip(header, cells, strict=True)), len(body))


def parse_cell(text: str) -> Value | None:
    """`$0.05-0.10` is 0.05 to 0.1 dollars, `1,200` is 1200, `12 ms` is 12 with a unit; None when it is no number."""
    match = _CELL.match(text.strip())
    if match is None:
        return None
    low = _number(match["low"]) * _SCALE.get(match["scale"] or match["scale2"] or "", 1)
    high = _number(match["high"]) * _SCALE.get(match["scale2"] or "", 1) if match["high"] else low
    if high < low:
        return None
    unit = "%" if "%" in text else (match["unit"] or "").strip()
    return Value(low, high, _CURRENCY.get(match["currency"] or "", ""), unit)


def parse_date(text: str) -> str | None:
    """The ISO form of a date in a common notation; None when it is none."""
    for form in _DATES:
        try:
            return datetime.strptime(text.strip()[:19].split("T")[0], form).date().isoformat()
        except ValueError:
            continue
    return None


def describe(table: Table) -> dict[str, Any]:
    """The profile of a table as JSON: what the choice of computations needs to know, and no row of it."""
    return {"rows": table.rows, "columns": [_describe(column) for column in table.columns]}


def _describe(column: Column) -> dict[str, Any]:
    known = [value for value in column.values if value is not None]
    profile: dict[str, Any] = {
        "name": column.name,
        "kind": column.kind,
        "unit": column.unit,
        "currency": column.currency,
        "missing": len(column.values) - len(known),
        "distinct": len(set(known)),
    }
    if column.kind in ("number", "range"):
        profile |= {
            "min": tidy(min(value.low for value in known)),
            "max": tidy(max(value.high for value in known)),
            "mean": tidy(sum(value.middle for value in known) / len(known)),
        }
    elif column.kind == "date":
        profile |= {"min": min(known), "max": max(known)}
    elif column.kind in ("category", "text"):
        profile["values"] = [str(value)[:60] for value in column.distinct[:20]]
    return profile


def tidy(number: float) -> float | int:
    """A number for people: four significant digits from 1 downwards, two decimals above, no trailing `.0`."""
    rounded = round(number, 2) if abs(number) >= 1 else float(f"{number:.4g}")
    return int(rounded) if rounded == int(rounded) else rounded


def _decode(data: bytes) -> str:
    if not data.strip():
        raise NotATable("it is empty")
    if b"\0" in data[:4096] or data.startswith((b"%PDF", b"PK\x03\x04")):
        raise NotATable("it is binary, not text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    if text.lstrip()[:1] in "{[<":
        raise NotATable("it looks like JSON, XML or HTML")
    return text


def _delimiter(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()][:20]

    def steadiness(delimiter: str) -> tuple[int, int]:
        widths = [len(row) for row in csv.reader(lines, delimiter=delimiter)]
        return sum(width == widths[0] for width in widths) if widths[0] > 1 else 0, widths[0]

    return max(",;\t|", key=steadiness)


def _header(rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    first = [cell.strip() for cell in rows[0]]
    if all(parse_cell(cell) for cell in first):
        return [f"column {i + 1}" for i in range(len(first))], rows
    names: list[str] = []
    for i, cell in enumerate(first):
        name = cell or f"column {i + 1}"
        names.append(name if name not in names else f"{name} ({i + 1})")
    return names, rows[1:]


def _column(name: str, cells: list[str]) -> Column:
    known = [cell for cell in cells if cell.lower() not in _MISSING]
    if not known:
        return Column(name, "empty", (None,) * len(cells))
    if all(parse_date(cell) for cell in known):
        return Column(
            name, "date", tuple(parse_date(c) if c.lower() not in _MISSING else None for c in cells)
        )
    if re.search(r"\byear\b", name, re.I) and all(re.fullmatch(r"(?:1[89]|20)\d\d", cell) for cell in known):
        years = (date(int(c), 1, 1).isoformat() if c.lower() not in _MISSING else None for c in cells)
        return Column(name, "date", tuple(years))
    values = [parse_cell(cell) if cell.lower() not in _MISSING else None for cell in cells]
    numbers = [value for value in values if value is not None]
    if len(numbers) >= 0.9 * len(known):
        return _numeric(name, known, values, numbers)
    distinct = len(set(known))
    kind = "category" if distinct <= max(12, len(known) // 3) and max(map(len, known)) <= 60 else "text"
    return Column(name, kind, tuple(c if c.lower() not in _MISSING else None for c in cells))


def _numeric(name: str, known: list[str], values: list[Value | None], numbers: list[Value]) -> Column:
    if re.search(r"(?:^|[_ ])(?:id|no|nr|index|zip|code)$", name, re.I) and len(set(known)) == len(known):
        return Column(name, "id", tuple(values))
    kind = "range" if any(value.high > value.low for value in numbers) else "number"
    return Column(
        name, kind, tuple(values), _common(v.unit for v in numbers), _common(v.currency for v in numbers)
    )


def _common(marks: Any) -> str:
    found = {mark for mark in marks if mark}
    return found.pop() if len(found) == 1 else ""


def _number(text: str) -> float:
    if re.fullmatch(r"[+-]?\d+,\d{1,2}", text):  # a decimal comma: 12,5
        return float(text.replace(",", "."))
    return float(text.replace(",", ""))
