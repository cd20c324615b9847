"""Versions of a model beside each other: what differs between them, and whether it may be chance. Pure.

Two things the tests cannot know: calls of one run are alike more than calls of several, which makes differences
of failures, times and cost look surer than they are; and whoever looks again and again until something is
significant will find something. Ratings count each run once.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from coordinator.samples import LEVEL, NOTHING, Finding, Moments, holm, proportions, welch

if TYPE_CHECKING:
    # The store, whose package comes with its records, compares by these rules.
    from coordinator.store.model_records import Route, RouteState, Sticky

MIN_OBSERVATIONS = 30
"""With fewer on a side nothing is called significant."""
MICROS = 1e6

Metric: TypeAlias = Literal["failures", "first_s", "total_s", "cost", "rating"]
METRICS: tuple[Metric, ...] = ("failures", "first_s", "total_s", "cost", "rating")


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen of a version. `first` and `total`: logarithms of seconds; `cost`: millionths of money for an
    answer; `rating`: of runs, each the mean of what was said of it."""

    version: int
    calls: int = 0
    failures: int = 0
    output_tokens: int = 0
    first: Moments = NOTHING
    total: Moments = NOTHING
    cost: Moments = NOTHING
    rating: Moments = NOTHING


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric of one version from `n` observations; None without any.

    `failures`: the share of calls, 0 to 1. `first_s`, `total_s`: the geometric mean of seconds to the first piece
    and to the end of an answer. `cost`: the mean for an answer, in the unit of prices. `rating`: the mean of
    runs, 1 to 5.
    """

    metric: Metric
    n: int
    value: float | None


@dataclass(frozen=True, slots=True)
class Arm:
    """`share`: of the calls, 0 to 1, by the route. The figures are in the order of `METRICS`."""

    version: int
    share: float
    calls: int
    failures: int
    output_tokens: int
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """A version against the oldest one.

    `change`, in the metric's unit, lies from `low` to `high` with 95 % confidence; of times it is a factor
    (`is_factor`: 1.1 is 10 % longer). All are None while there is too little to reckon with. `p`: how often
    chance would make as large a difference; `adjusted_p`: raised for the number of differences that are looked at
    (Holm). `significant`: that is at most 0.05. `better`: in which direction, None if it is not significant.
    `enough`: 30 observations on each side; else `shortfall` says what is missing, and nothing is significant.
    """

    metric: Metric
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


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the versions of one route did: the oldest first. `since` to `until`: when it served, in seconds since
    the epoch. `enough`: of every metric but the rating, which few give."""

    model: str
    revision: int
    sticky: "Sticky"
    state: "RouteState"
    since: float | None
    until: float | None
    baseline: int
    arms: tuple[Arm, ...]
    differences: tuple[Difference, ...]
    enough: bool


def compare(route: "Route", seen: Iterable[Observed]) -> Comparison:
    """Of a route with two versions or more. A version that nothing was seen of counts as such."""
    by_version = {observed.version: observed for observed in seen}
    arms = [by_version.get(version, Observed(version)) for version in sorted(route.weights)]
    first, *others = arms
    differences = _judged([_difference(metric, first, other) for other in others for metric in METRICS])
    whole = sum(route.weights.values())
    return Comparison(
        model=route.model,
        revision=route.revision,
        sticky=route.sticky,
        state=route.state,
        since=route.active_at,
        until=route.ended_at,
        baseline=first.version,
        arms=tuple(_arm(observed, route.weights[observed.version] / whole) for observed in arms),
        differences=tuple(differences),
        enough=all(found.enough for found in differences if found.metric != "rating"),
    )


def _arm(seen: Observed, share: float) -> Arm:
    figures = tuple(_figure(metric, seen) for metric in METRICS)
    return Arm(seen.version, share, seen.calls, seen.failures, seen.output_tokens, figures)


def _figure(metric: Metric, seen: Observed) -> Figure:
    n = _count(metric, seen)
    if not n:
        return Figure(metric, 0, None)
    if metric == "failures":
        return Figure(metric, n, seen.failures / n)
    mean = _moments(metric, seen).mean
    return Figure(metric, n, _factor(mean) if _is_factor(metric) else mean / _unit(metric))


def _difference(metric: Metric, one: Observed, other: Observed) -> Difference:
    shortfall = _shortfall(metric, one, other)
    finding = _find(metric, one, other)
    change, low, high = (None, None, None) if finding is None else (finding.change, finding.low, finding.high)
    return Difference(
        metric=metric,
        version=other.version,
        baseline=one.version,
        is_factor=_is_factor(metric),
        change=change,
        low=low,
        high=high,
        p=None if finding is None else finding.p,
        adjusted_p=None,
        significant=False,
        better=None,
        enough=not shortfall,
        shortfall=shortfall,
    )


def _find(metric: Metric, one: Observed, other: Observed) -> Finding | None:
    if metric == "failures":
        return proportions(one.failures, one.calls, other.failures, other.calls)
    found = welch(_moments(metric, one), _moments(metric, other))
    if found is None:
        return None
    if _is_factor(metric):
        return Finding(_factor(found.change), _factor(found.low), _factor(found.high), found.p)
    unit = _unit(metric)
    return Finding(found.change / unit, found.low / unit, found.high / unit, found.p)


def _judged(differences: Sequence[Difference]) -> list[Difference]:
    """Those with observations enough are the tests that count."""
    tested = [n for n, found in enumerate(differences) if found.enough and found.p is not None]
    adjusted = dict(zip(tested, holm([differences[n].p or 0.0 for n in tested]), strict=True))
    return [_judge(found, adjusted[n]) if n in adjusted else found for n, found in enumerate(differences)]


def _judge(found: Difference, adjusted: float) -> Difference:
    change = found.change or 0.0
    rises = change > (1.0 if found.is_factor else 0.0)
    significant = adjusted <= LEVEL
    better = rises == (found.metric == "rating") if significant else None
    return replace(found, adjusted_p=adjusted, significant=significant, better=better)


def _shortfall(metric: Metric, *both: Observed) -> str:
    short = ((seen.version, _count(metric, seen)) for seen in both)
    return "; ".join(
        f"version {version} has {n} of {MIN_OBSERVATIONS} observations"
        for version, n in short
        if n < MIN_OBSERVATIONS
    )


def _count(metric: Metric, seen: Observed) -> int:
    return seen.calls if metric == "failures" else _moments(metric, seen).n


def _moments(metric: Metric, seen: Observed) -> Moments:
    by_metric = {"first_s": seen.first, "total_s": seen.total, "cost": seen.cost, "rating": seen.rating}
    return by_metric[metric]


def _is_factor(metric: Metric) -> bool:
    return metric in ("first_s", "total_s")


def _unit(metric: Metric) -> float:
    return MICROS if metric == "cost" else 1.0


def _factor(logarithm: float) -> float:
    """No further than a float goes: an interval of three observations may be as wide."""
    return math.exp(max(-700.0, min(700.0, logarithm)))
