"""How many requests a second a platform carries before its answers come late. Pure: what to try next, what it is."""

from collections.abc import Sequence
from dataclasses import dataclass

GROWTH = 2.0
GOOD_SHARE = 0.95
"""Of the requests that arrive; so the knee is where P95 to the first text passes its bound, or requests fail."""
LEAST_RATE = 0.5


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a rate (requests/s). `good`: the share of arrivals that were answered whole, and begun in time."""

    rate: float
    good: float

    @property
    def carried(self) -> bool:
        return self.good >= GOOD_SHARE

    @property
    def goodput(self) -> float:
        """Requests/s that were answered as they should be."""
        return self.rate * self.good


def next_rate(trials: Sequence[Trial], start: float, precision: float) -> float | None:
    """The rate to try next: up or down by leaps from `start`, then between what was carried and what was not.

    None once both lie within `precision` (0.1: one tenth) of each other, or nothing at all is carried.
    """
    if not trials:
        return start
    carried, lost = knee(trials), _lost(trials)
    if lost is None:
        return max(trial.rate for trial in trials) * GROWTH
    if carried == 0:
        below = lost / GROWTH
        return below if below >= LEAST_RATE else None
    if lost <= carried * (1 + precision):
        return None
    return float((carried * lost) ** 0.5)


def knee(trials: Sequence[Trial]) -> float:
    """The highest rate that was carried, below the lowest that was not; 0 where there is none."""
    lost = _lost(trials)
    return max((t.rate for t in trials if t.carried and (lost is None or t.rate < lost)), default=0.0)


def _lost(trials: Sequence[Trial]) -> float | None:
    return min((trial.rate for trial in trials if not trial.carried), default=None)
