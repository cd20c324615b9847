"""The seconds of budgets: how long the steps under a limit have worked, and when they will have used it up.

Steps beside each other use time together: with two at work, a second passes twice as fast.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from coordinator.keys import covers
from manta.ids import StepKey
from manta.messages import Limit


@dataclass(slots=True)
class _Meter:
    limit_s: float
    used_s: float = 0.0
    since: float = 0.0
    working: set[StepKey] = field(default_factory=set)

    def advance(self, now: float) -> None:
        self.used_s += (now - self.since) * len(self.working)
        self.since = now


class WorkTime:
    """Meters of one run, one for each limit that names seconds. All times are monotonic seconds."""

    def __init__(self) -> None:
        self._meters: dict[StepKey, _Meter] = {}
        self._before: list[tuple[StepKey, float]] = []

    def used_before(self, step: StepKey, seconds: float) -> None:
        """What a step has worked under an earlier claim; told before any `begin`."""
        self._before.append((step, seconds))

    def begin(self, step: StepKey, limits: Sequence[Limit], now: float) -> None:
        for limit in limits:
            if limit.budget.seconds is None:
                continue
            meter = self._meters.get(limit.step)
            if meter is None:
                used = sum(seconds for key, seconds in self._before if covers(limit.step, key))
                meter = self._meters[limit.step] = _Meter(limit.budget.seconds, used, now)
            meter.advance(now)
            meter.working.add(step)

    def end(self, step: StepKey, now: float) -> None:
        for meter in self._meters.values():
            if step in meter.working:
                meter.advance(now)
                meter.working.discard(step)

    def next_end(self) -> float | None:
        """When the first limit will be used up if nothing changes."""
        ends = [
            meter.since + (meter.limit_s - meter.used_s) / len(meter.working)
            for meter in self._meters.values()
            if meter.working
        ]
        return min(ends, default=None)

    def overdrawn(self, now: float) -> Iterable[tuple[StepKey, str]]:
        """The steps at work whose limit is used up, each with what to say of it."""
        for limit, meter in self._meters.items():
            meter.advance(now)
            # A sleeper may wake a hair early.
            if meter.working and meter.used_s >= meter.limit_s - 1e-6:
                where = f"step {limit}" if limit else "the run"
                for step in sorted(meter.working):
                    yield step, f"{where} has used its budget of {meter.limit_s:g} seconds of work"
