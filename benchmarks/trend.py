"""Whether a figure grows over time: a straight line, and how sure its slope is. Pure.

Samples of memory that follow each other are alike, which makes the slope of least squares look surer than it is. So
the line is Prais and Winsten's (1954): least squares of what is left of each sample besides its likeness to the one
before. Where samples are all but what the last one was, the slope is the mean of the steps between them.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

SURE = 0.95
MOSTLY_STEPS = 0.9
ROUNDS = 8
LEAST_SAMPLES = 6


@dataclass(frozen=True, slots=True)
class Trend:
    """Change for each unit of time; `low` to `high` is its 95 % interval."""

    slope: float
    low: float
    high: float

    def verdict(self, limit: float) -> Literal["flat", "grows", "unclear"]:
        """`flat`: surely slower than `limit`; `grows`: surely not; else it took too short to tell."""
        if self.high < limit:
            return "flat"
        return "grows" if self.low >= limit else "unclear"


UNKNOWN = Trend(math.nan, -math.inf, math.inf)


def trend(times: Sequence[float], values: Sequence[float]) -> Trend:
    """The line through the samples; UNKNOWN for fewer than six of them, or all of one moment."""
    if len(times) < LEAST_SAMPLES or len(set(times)) == 1:
        return UNKNOWN
    alike = 0.0
    for _ in range(ROUNDS):
        slope, level, _ = _line(times, values, alike)
        left = [value - level - slope * time for time, value in zip(times, values, strict=True)]
        alike = _alike(left)
        if alike > MOSTLY_STEPS:
            return _of_steps(times, values)
    slope, _, error = _line(times, values, alike)
    # A level, a slope and the likeness are taken from the samples.
    reach = student(SURE, len(times) - 3) * error
    return Trend(slope, slope - reach, slope + reach)


def _alike(left: Sequence[float]) -> float:
    """How much of what is left of a sample comes back in the next, from 0.

    A line takes some of the likeness with it, which is put back (Kendall, Biometrika 41, 1954).
    """
    squares = _dot(left, left)
    if squares == 0:
        return 0.0
    found = math.fsum(a * b for a, b in pairwise(left)) / squares
    return max(found + (2 + 4 * found) / len(left), 0.0)


def _of_steps(times: Sequence[float], values: Sequence[float]) -> Trend:
    steps = [after - before for before, after in pairwise(values)]
    taken = times[-1] - times[0]
    slope = math.fsum(steps) / taken
    reach = student(SURE, len(steps) - 1) * statistics.stdev(steps) * math.sqrt(len(steps)) / taken
    return Trend(slope, slope - reach, slope + reach)


def _line(times: Sequence[float], values: Sequence[float], alike: float) -> tuple[float, float, float]:
    """Slope, level and the slope's standard error by least squares, of samples less their share of the last one."""
    first = math.sqrt(1 - alike**2)
    ones = [first] + [1 - alike] * (len(times) - 1)
    xs = [first * times[0], *(b - alike * a for a, b in pairwise(times))]
    ys = [first * values[0], *(b - alike * a for a, b in pairwise(values))]
    oo, ox, xx = _dot(ones, ones), _dot(ones, xs), _dot(xs, xs)
    oy, xy = _dot(ones, ys), _dot(xs, ys)
    spread = oo * xx - ox**2
    slope, level = (oo * xy - ox * oy) / spread, (xx * oy - ox * xy) / spread
    left = [y - level * one - slope * x for one, x, y in zip(ones, xs, ys, strict=True)]
    return slope, level, math.sqrt(_dot(left, left) / (len(times) - 3) * oo / spread)


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def student(sure: float, freedom: float) -> float:
    """The two-sided quantile of Student's t: Cornish and Fisher's expansion (Abramowitz and Stegun, 26.7.5)."""
    z = statistics.NormalDist().inv_cdf((1 + sure) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, 1))
