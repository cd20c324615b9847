"""A comparison of versions in JSON."""

from typing import Any

from typing_extensions import TypedDict

from coordinator.experiments import Comparison
from manta.messages import to_json
from serve_app.gateway.shapes import Stamp, stamp_of


class FigureJson(TypedDict):
    """One metric of a version from `n` observations.

    `failures`: the share of calls. `first_s`, `total_s`: the geometric mean of seconds to the first piece and to
    the end. `cost`: the mean of answers. `rating`: the mean of runs, 1 to 5.
    """

    metric: str
    n: int
    value: float | None


class ArmJson(TypedDict):
    version: int
    share: float
    calls: int
    failures: int
    output_tokens: int
    figures: list[FigureJson]


class DifferenceJson(TypedDict):
    """A version against the `baseline`.

    `change` lies between `low` and `high` with 95 % confidence; of times it is a factor. `adjusted_p` is raised for
    the number of differences that are looked at; `significant`: it is at most 0.05. `enough`: 30 observations on
    each side, else `shortfall` says what is missing.
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
    shortfall: str


class ComparisonJson(TypedDict):
    """How the versions of one route did; `since` to `until`: when it served. The oldest version is the baseline."""

    model: str
    revision: int
    sticky: str
    state: str
    since: Stamp | None
    until: Stamp | None
    baseline: int
    arms: list[ArmJson]
    differences: list[DifferenceJson]
    enough: bool


def comparison_json(found: Comparison) -> ComparisonJson:
    plain: Any = to_json(found)
    times = {"since": stamp_of(found.since), "until": stamp_of(found.until)}
    told: ComparisonJson = plain | times
    return told
