"""How the versions of a model did beside each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from manta.messages import from_json
from manta.wire.values import moment


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric of a version from `n` observations; `value` is None without any.

    `failures`: the share of calls, 0 to 1. `first_s`, `total_s`: the geometric mean of seconds to the first piece
    and to the end of an answer. `cost`: the mean of answers, in the unit of prices. `rating`: the mean of runs.
    """

    metric: str
    n: int
    value: float | None = None


@dataclass(frozen=True, slots=True)
class ComparedVersion:
    """`share`: of the calls, 0 to 1, by the route."""

    version: int
    share: float
    calls: int
    failures: int
    output_tokens: int
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """A version against the `baseline`: `change`, between `low` and `high` with 95 % confidence.

    `is_factor`: 1.1 is a tenth more. `p`: how often chance would make as large a difference; `adjusted_p`: raised
    for the number of differences that are looked at; `significant`: that is at most 0.05, and `better` says in which
    direction. `enough`: 30 observations on each side; else `shortfall` says what is missing.
    """

    metric: str
    version: int
    baseline: int
    is_factor: bool
    change: float | None
    low: float | None
    high: float | None
    p: float | None
    adjusted_p: float | None
    significant: bool
    better: bool | None
    enough: bool
    shortfall: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The versions of the route `revision`, the oldest first; `since` to `until`: when it served.

    `enough`: there are observations enough of every metric but the rating.
    """

    model: str
    revision: int
    sticky: str
    state: str
    baseline: int
    arms: tuple[ComparedVersion, ...]
    differences: tuple[Difference, ...]
    enough: bool
    since: datetime | None = None
    until: datetime | None = None


def comparison_of(data: Mapping[str, Any]) -> Comparison:
    times = {name: moment(data[name]) if data.get(name) else None for name in ("since", "until")}
    return from_json(Comparison, {**data, **times})
