"""What a key may still spend today and this month. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from coordinator.store.key_records import KeyLimits, Spent
from coordinator.store.keys import periods
from coordinator.store.retention import DAY_S
from manta.usage import Budget

MICROS = 1_000_000


@dataclass(frozen=True, slots=True)
class Over:
    """A budget that is used up, or would be: how much of it is left, in which unit, and how long it lasts."""

    unit: Literal["tokens", "money"]
    period: Literal["day", "month"]
    limit: float
    left: float
    seconds: float


def over(limits: KeyLimits, today: Spent, month: Spent, asked: Spent, now: float) -> Over | None:
    """The first budget that has no room for what is asked; `now` in seconds since the epoch."""
    for unit, period, limit, spent, wanted in _rows(limits, today, month, asked):
        left = max(0.0, limit - spent)
        if wanted > left or left <= 0:
            return Over(unit, period, limit, left, _until_next(period, now))
    return None


def remaining(limits: KeyLimits, today: Spent, month: Spent) -> Budget | None:
    """What a run may use of what is left; None is no limit."""
    left: dict[str, float] = {}
    for unit, _, limit, spent, _ in _rows(limits, today, month, Spent()):
        left[unit] = min(left.get(unit, limit), max(0.0, limit - spent))
    if not left:
        return None
    return Budget(tokens=int(left["tokens"]) if "tokens" in left else None, money=left.get("money"))


_Row = tuple[Literal["tokens", "money"], Literal["day", "month"], float, float, float]


def _rows(limits: KeyLimits, today: Spent, month: Spent, asked: Spent) -> Iterator[_Row]:
    """Unit, period, limit, spent and asked of each budget that there is."""
    if limits.tokens_per_day is not None:
        yield "tokens", "day", limits.tokens_per_day, today.tokens, asked.tokens
    if limits.tokens_per_month is not None:
        yield "tokens", "month", limits.tokens_per_month, month.tokens, asked.tokens
    if limits.money_per_day is not None:
        yield "money", "day", limits.money_per_day, today.micros / MICROS, asked.micros / MICROS
    if limits.money_per_month is not None:
        yield "money", "month", limits.money_per_month, month.micros / MICROS, asked.micros / MICROS


def _until_next(period: Literal["day", "month"], now: float) -> float:
    """Seconds until the next day or month begins, in UTC."""
    today, month = periods(now)
    # The 33rd day of a month always lies in the next one.
    following = today + DAY_S if period == "day" else periods(month + 32 * DAY_S)[1]
    return following - now
