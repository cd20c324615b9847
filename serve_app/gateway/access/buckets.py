"""A token bucket as a value. In any time t no more than `capacity + per_s * t` goes out of it, less what comes back."""

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Rate:
    """A bucket's size, and how fast it fills, in units a second."""

    capacity: float
    per_s: float

    @classmethod
    def a_minute(cls, amount: int) -> "Rate":
        """A minute's worth may be taken at once."""
        return cls(amount, amount / 60)


@dataclass(frozen=True, slots=True)
class Bucket:
    """`level` at the moment `at`, monotonic seconds. It is below zero where more was used than was taken."""

    level: float
    at: float

    @classmethod
    def full(cls, rate: Rate, now: float) -> "Bucket":
        return cls(rate.capacity, now)

    def seen(self, rate: Rate, now: float) -> "Bucket":
        """The bucket as it is now."""
        gained = max(0.0, now - self.at) * rate.per_s
        return Bucket(min(rate.capacity, self.level + gained), max(self.at, now))

    def take(self, rate: Rate, amount: float, now: float) -> "Bucket | Wait":
        """The bucket without the amount, or how long to wait for it."""
        here = self.seen(rate, now)
        if here.level < amount:
            return Wait((amount - here.level) / rate.per_s if amount <= rate.capacity else math.inf)
        return replace(here, level=here.level - amount)

    def settle(self, rate: Rate, taken: float, used: float, now: float) -> "Bucket":
        """Give back what was taken and not used, or owe what was used beyond it."""
        here = self.seen(rate, now)
        return replace(here, level=min(rate.capacity, here.level + taken - used))

    def full_in(self, rate: Rate, now: float) -> float:
        """Seconds until nothing is missing."""
        return max(0.0, rate.capacity - self.seen(rate, now).level) / rate.per_s


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now: after so many seconds, or never (infinity)."""

    seconds: float
