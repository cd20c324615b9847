"""What the analyst knows of a table before it computes: its columns' kinds, and which of them a question is about.

Meanings are read from names and units by pattern: a throughput has a unit of work per time (`requests_per_second`,
`req/s`, `qps`), a price has money per amount of work (`usd_per_1000_inferences`) or per time (`usd_per_hour`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agents.sentences import content_stems, stem

_SECONDS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hr": 3600, "hour": 3600}
_SECONDS |= {"day": 86_400, "week": 604_800, "month": 2_592_000, "year": 31_536_000}
_TIME = r"(?P<time>seconds?|secs?|s|minutes?|mins?|min|hours?|hrs?|h|days?|weeks?|months?|years?)"
_WORK = (
    r"(?P<work>requests?|reqs?|queries|query|inferences?|calls?|predictions?|images?|messages?|tokens?|"
    r"transactions?|orders?|jobs?|items?|documents?|pages?|emails?|units?)"
)
_SHORT_RATES = {"rps": "request", "qps": "query", "tps": "token"}
_MONEY = re.compile(r"usd|eur|gbp|dollars?|euros?|[$€£]|\b(?:price|cost|fee|charge|rate)s?\b", re.I)
_SIGNS = (
    (re.compile(r"usd|dollar|\$", re.I), "$"),
    (re.compile(r"eur|€", re.I), "€"),
    (re.compile(r"gbp|£", re.I), "£"),
)
_PER_WORK = re.compile(
    rf"(?:per|/)\s*(?P<amount>\d[\d,.]*)?\s*(?P<scale>k|thousand|m|mio|million|mn|b|billion)?\s*{_WORK}\b",
    re.I,
)
_PER_TIME = re.compile(rf"(?:per|/)\s*{_TIME}\b", re.I)
_HOURLY = {"hourly": 3600, "daily": 86_400, "weekly": 604_800, "monthly": 2_592_000, "yearly": 31_536_000}
_HOURLY |= {"annually": 31_536_000, "annual": 31_536_000}
_RATE = re.compile(
    rf"(?P<number>\d[\d,]*(?:\.\d+)?)\s*(?P<scale>k|thousand|million)?\s*{_WORK}\s*(?:/|\b(?:per|an?|each|every)\s)\s*{_TIME}\b",
    re.I,
)
_HORIZON = re.compile(
    rf"(?:\b(?:per|an?|each|every)\s+|/\s*){_TIME}\b|\b(?P<adverb>{'|'.join(_HOURLY)})\b", re.I
)
_SCALES = {
    "k": 1e3,
    "thousand": 1e3,
    "m": 1e6,
    "mio": 1e6,
    "mn": 1e6,
    "million": 1e6,
    "b": 1e9,
    "billion": 1e9,
}
_UNIT_NAMES = (
    "kg g mg t l ml km m cm mm s sec seconds ms min minutes h hours days w kw kwh mwh gb mb tb c celsius k pct "
    "percent % usd eur gbp"
)
_UNITS = frozenset(_UNIT_NAMES.split())
_SAME_MEANING = (
    "cost price usd eur gbp dollar euro expense spend fee cheap expensive afford",
    "speed throughput fast slow rate performance",
    "duration time latency delay minute second hour ms quick",
    "revenue sales turnover income earnings",
    "weight heavy light kg mass",
    "yield harvest crop output produce production",
    "temperature hot cold warm celsius degree",
    "distance far km mile range length",
    "population people inhabitant person headcount",
    "energy power electricity kwh watt consumption",
)
_MEANING = {stem(word): {stem(w) for w in line.split()} for line in _SAME_MEANING for word in line.split()}


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """One column; `values` are up to 20 distinct ones of a category or text."""

    name: str
    kind: str
    unit: str = ""
    currency: str = ""
    missing: int = 0
    distinct: int = 0
    min: Any = None
    max: Any = None
    mean: Any = None
    values: tuple[str, ...] = ()

    @property
    def is_measure(self) -> bool:
        return self.kind in ("number", "range")

    @property
    def words(self) -> str:
        """The name as people would write it, without the unit at its end."""
        return self.spelled.rpartition(" ")[0] if self._unit_in_name else self.spelled

    @property
    def spelled(self) -> str:
        """The whole name in words."""
        spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.name.replace("_", " "))
        return " ".join(spaced.split())

    @property
    def measured_in(self) -> str:
        """The unit of its values, by their cells or the end of the column's name; empty when there is none."""
        return self.unit or self._unit_in_name

    @property
    def _unit_in_name(self) -> str:
        last = (self.spelled.split() or [""])[-1].strip("()[]")
        known = self.is_measure and len(self.spelled.split()) > 1 and last.lower() in _UNITS
        # What follows "per" is half a unit: it stays in the name.
        return (
            last
            if known and not _PER_WORK.search(self.spelled) and not _PER_TIME.search(self.spelled)
            else ""
        )

    @property
    def sign(self) -> str:
        """The currency sign its values carry, by their cells or the column's name; empty for other measures."""
        return self.currency or next((sign for pattern, sign in _SIGNS if pattern.search(self.name)), "")


@dataclass(frozen=True, slots=True)
class TableProfile:
    file: str
    rows: int
    columns: tuple[ColumnProfile, ...]

    @property
    def measures(self) -> list[ColumnProfile]:
        return [column for column in self.columns if column.is_measure]


@dataclass(frozen=True, slots=True)
class Load:
    """A rate of work named in a question: `number` of `work` every `seconds`."""

    number: float
    work: str
    seconds: int

    @property
    def per_second(self) -> float:
        return self.number / self.seconds


@dataclass(frozen=True, slots=True)
class Throughput:
    column: ColumnProfile
    work: str
    seconds: int


@dataclass(frozen=True, slots=True)
class Price:
    """Money per `amount` of `work`, or per `seconds` of an instance's time when `work` is empty."""

    column: ColumnProfile
    amount: float
    work: str
    seconds: int = 0


def profile_from_json(file: str, data: Mapping[str, Any]) -> TableProfile:
    columns = tuple(
        ColumnProfile(**{**column, "values": tuple(column.get("values", ()))}) for column in data["columns"]
    )
    return TableProfile(file, int(data["rows"]), columns)


NAMED = 4
"""The relevance of a column that has one word of its name in the question."""


def relevance(column: ColumnProfile, question: str) -> int:
    """How strongly a question speaks of a column: by its name's words, less by words of like meaning or its values."""
    asked = set(content_stems(question))
    named = set(content_stems(f"{column.spelled} {column.unit}"))
    alike = {like for word in named for like in _MEANING.get(word, ())} - named
    values = {word for value in column.values for word in content_stems(value)} - named - alike
    return NAMED * len(asked & named) + 2 * min(1, len(asked & alike)) + min(1, len(asked & values))


def ranked(columns: list[ColumnProfile], question: str) -> list[ColumnProfile]:
    """Columns by relevance; equals keep the table's order."""
    return sorted(columns, key=lambda column: -relevance(column, question))


def label_columns(table: TableProfile, question: str) -> list[ColumnProfile]:
    """Columns that together name a row: the one asked about first, at most two; none when rows have no names."""
    naming = [c for c in table.columns if c.kind in ("category", "text") and c.distinct == table.rows]
    short = [c for c in naming if max((len(v) for v in c.values), default=99) <= 40]
    return ranked(short, question)[:2]


def group_columns(table: TableProfile, question: str) -> list[ColumnProfile]:
    """Columns whose values repeat, so that rows can be compared in groups; the one asked about first."""
    groups = [
        c for c in table.columns if c.kind == "category" and 2 <= c.distinct <= 20 and c.distinct < table.rows
    ]
    return ranked(groups, question)


def load_in(question: str) -> Load | None:
    match = _RATE.search(question)
    if match is None:
        return None
    number = float(match["number"].replace(",", "")) * _SCALES.get((match["scale"] or "").lower(), 1)
    return Load(number, _singular(match["work"]), seconds(match["time"])) if number > 0 else None


def horizon_in(question: str, default: str = "hour") -> tuple[str, int]:
    """The time a cost is asked for, as its name and seconds; the time in the load itself does not count."""
    match = _HORIZON.search(_RATE.sub(" ", question))
    if match is None:
        return default, _SECONDS[default]
    length = _HOURLY[match["adverb"].lower()] if match["adverb"] else seconds(match["time"])
    return next(name for name, value in reversed(_SECONDS.items()) if value == length), length


def throughput_of(column: ColumnProfile) -> Throughput | None:
    text = f"{column.spelled} {column.unit}".lower()
    if not column.is_measure or column.currency or re.search(r"usd|eur|gbp|[$€£]|price|cost|fee", text):
        return None
    short = next((word for word in text.split() if word in _SHORT_RATES), None)
    if short:
        return Throughput(column, _SHORT_RATES[short], 1)
    match = re.search(rf"{_WORK}\s*(?:per|/)\s*{_TIME}\b", text)
    return Throughput(column, _singular(match["work"]), seconds(match["time"])) if match else None


def price_of(column: ColumnProfile) -> Price | None:
    text = f"{column.spelled} {column.unit}".lower()
    if not column.is_measure or not (column.currency or _MONEY.search(text)):
        return None
    match = _PER_WORK.search(text)
    if match:
        amount = float((match["amount"] or "1").replace(",", "")) * _SCALES.get(match["scale"] or "", 1)
        return Price(column, amount, _singular(match["work"])) if amount > 0 else None
    time = _PER_TIME.search(text)
    length = seconds(time["time"]) if time else next((v for word, v in _HOURLY.items() if word in text), 0)
    return Price(column, 1, "", length) if length else None


def same_work(first: str, second: str) -> bool:
    """Whether two units of work count alike: any two do, but tokens only with tokens."""
    return first == second or "token" not in (first, second)


def seconds(time: str) -> int:
    time = time.lower()
    return _SECONDS[time] if time in _SECONDS else _SECONDS[time.rstrip("s")]


def _singular(work: str) -> str:
    work = work.lower()
    if work in ("queries", "query"):
        return "query"
    work = work.rstrip("s")
    return "request" if work == "req" else work
