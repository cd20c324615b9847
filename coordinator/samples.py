"""The few tests of statistics that comparing two samples needs, from their counts and sums alone. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

LEVEL = 0.05
"""Of significance; intervals are at 95 %."""
_Z = NormalDist().inv_cdf(1 - LEVEL / 2)
_LEAST_EXPECTED = 10.0
"""With fewer in a cell of the table the normal approximation is not used: at five, the usual mark, its p can be a
third of the exact one."""
_NORMAL_FROM = 1e6
"""From so many degrees of freedom on, Student's distribution is the normal one to six digits."""
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Moments:
    """Observations by how many they are, their sum and the sum of their squares."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    @property
    def mean(self) -> float:
        return self.total / self.n

    @property
    def variance(self) -> float:
        """Of the population, estimated from two observations or more."""
        raw = self.squares - self.total * self.total / self.n
        # What is left of equal observations is rounding.
        return raw / (self.n - 1) if raw > _ROUNDING * self.squares else 0.0


NOTHING = Moments()


@dataclass(frozen=True, slots=True)
class Finding:
    """How much larger the second sample is than the first, with a 95 % interval; `p`: if they were alike, how
    often chance would make as large a difference."""

    change: float
    low: float
    high: float
    p: float


def welch(one: Moments, other: Moments) -> Finding | None:
    """Of means, whatever the variances (Welch 1947). None with fewer than two observations on a side."""
    if one.n < 2 or other.n < 2:
        return None
    change = other.mean - one.mean
    parts = (one.variance / one.n, other.variance / other.n)
    spread = sum(parts)
    if not spread:
        alike = abs(change) <= _ROUNDING * max(abs(one.mean), abs(other.mean))
        return Finding(change, change, change, 1.0 if alike else 0.0)
    weight = parts[0] / spread
    freedom = 1 / (weight**2 / (one.n - 1) + (1 - weight) ** 2 / (other.n - 1))
    error = math.sqrt(spread)
    reach = t_quantile(LEVEL, freedom) * error
    return Finding(change, change - reach, change + reach, t_tails(change / error, freedom))


def proportions(hits: int, of: int, other_hits: int, of_other: int) -> Finding | None:
    """Of shares: by the pooled normal test, or Fisher's exact one where the counts are small.

    The interval is Newcombe's (1998, method 10). None without an observation on a side.
    """
    if not of or not of_other:
        return None
    one, other = hits / of, other_hits / of_other
    low, high = _wilson(hits, of)
    other_low, other_high = _wilson(other_hits, of_other)
    change = other - one
    down = math.hypot(other - other_low, high - one)
    up = math.hypot(other_high - other, one - low)
    return Finding(change, change - down, change + up, _p_of_shares(hits, of, other_hits, of_other))


def holm(chances: Sequence[float]) -> list[float]:
    """The p-values of several tests, raised so that one of them under a level is as rare as if it were alone.

    Holm 1979: the smallest counts as often as there are tests, the next one less, and none below one before.
    """
    adjusted = [0.0] * len(chances)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[place]))
        adjusted[place] = highest
    return adjusted


def t_tails(t: float, freedom: float) -> float:
    """How likely a value of Student's distribution is at least as far from 0 as `t`, on either side.

    The regularised incomplete beta function I_x(f/2, 1/2) at x = f/(f + t^2), Abramowitz and Stegun 26.5.27.
    """
    if freedom > _NORMAL_FROM:
        return 2 * NormalDist().cdf(-abs(t))
    square = t * t
    return _beta(freedom / 2, 0.5, freedom / (freedom + square), square / (freedom + square))


def t_quantile(tails: float, freedom: float) -> float:
    """The t at which `t_tails` is `tails`, by halving."""
    low, high = 0.0, 2.0
    while t_tails(high, freedom) > tails:
        low, high = high, high * 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tails(middle, freedom) > tails else (low, middle)
    return (low + high) / 2


def _beta(a: float, b: float, x: float, rest: float) -> float:
    """The regularised incomplete beta function I_x(a, b); `rest` is 1 - x, which may be too small to reckon.

    By the continued fraction of DLMF 8.17.22, on the side on which it converges fast.
    """
    if x <= 0 or rest <= 0:
        return 0.0 if x <= 0 else 1.0
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    front = math.exp(logarithm)
    if x < (a + 1) / (a + b + 2):
        return min(1.0, front * _fraction(a, b, x) / a)
    return max(0.0, 1.0 - front * _fraction(b, a, rest) / b)


def _fraction(a: float, b: float, x: float) -> float:
    """By Lentz's method as Thompson and Barnett (1986) have it; some sqrt(max(a, b)) rounds suffice."""
    tiny = 1e-300
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1) or tiny)
    value = d
    for m in range(1, 20_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        step = 1.0
        for part in (even, odd):
            d = 1.0 / (1.0 + part * d or tiny)
            c = 1.0 + part / c or tiny
            step = c * d
            value *= step
        if abs(step - 1) < 1e-15:
            break
    return value


def _wilson(hits: int, of: int) -> tuple[float, float]:
    """Wilson's interval of a share (1927), which holds for shares near 0 too."""
    share, square = hits / of, _Z * _Z
    middle = share + square / (2 * of)
    reach = _Z * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    whole = 1 + square / of
    # At the ends rounding would leave the share outside its own interval.
    return min(share, (middle - reach) / whole), max(share, (middle + reach) / whole)


def _p_of_shares(hits: int, of: int, other_hits: int, of_other: int) -> float:
    both, all_ = hits + other_hits, of + of_other
    least = min(of, of_other) * min(both, all_ - both) / all_
    if least < _LEAST_EXPECTED:
        return _fisher(hits, of, other_hits, of_other)
    pooled = both / all_
    error = math.sqrt(pooled * (1 - pooled) * (1 / of + 1 / of_other))
    return 2 * NormalDist().cdf(-abs(other_hits / of_other - hits / of) / error)


def _fisher(hits: int, of: int, other_hits: int, of_other: int) -> float:
    """All tables with these sums that are no likelier than the one found, together."""
    both = hits + other_hits
    whole = _choices(of + of_other, both)

    def chance(of_first: int) -> float:
        return math.exp(_choices(of, of_first) + _choices(of_other, both - of_first) - whole)

    limit = chance(hits) * (1 + 1e-7)
    possible = map(chance, range(max(0, both - of_other), min(both, of) + 1))
    return min(1.0, sum(found for found in possible if found <= limit))


def _choices(n: int, k: int) -> float:
    """The logarithm of the binomial coefficient."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
