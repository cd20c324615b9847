"""What a soak has shown, reckoned from its answers, and the marks it is held against. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness import Target, percentile
from benchmarks.lean_process import Timed
from benchmarks.memory import GROWS_MIB, Growth

SHARES = (0.5, 0.95, 0.99)
FIRST_MS = 500.0
EACH_REPLICA = 20.0
PRICE = 0.2
FAILED = 1.0
"""Of 10,000: 99.99 % availability."""
BUSY = 80.0
DEPLOYED_S = 300.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What was soaked. `slots`: requests that one replica works on at a time. `price`: of a replica's hour."""

    replicas: int
    slots: int
    price: float | None
    deployed_s: float


@dataclass(frozen=True, slots=True)
class Figures:
    """Milliseconds by percentile, rates a second, shares in percent; `cost` is that of a million tokens, in and out."""

    asked: int
    failed: int
    seconds: float
    first_ms: dict[str, float]
    whole_ms: dict[str, float]
    rate: float
    rate_each: float
    tokens_per_s: float
    busy: float
    cost: float | None

    @property
    def availability(self) -> float:
        return 100 * (1 - self.failed / self.asked)

    @property
    def failed_of_10000(self) -> float:
        return 10_000 * self.failed / self.asked


def reckon(answers: Sequence[Timed], seconds: float, busy_slots: Sequence[float], set_up: Setting) -> Figures:
    """The figures of a soak.

    Args:
        seconds: for which requests arrived.
        busy_slots: samples of how many requests all replicas together were at work on.

    Raises:
        ValueError: nothing was answered.
    """
    good = [timed.answer for timed in answers if not timed.answer.fault]
    tokens_per_s = sum(answer.tokens_in + answer.tokens_out for answer in good) / seconds
    rate = len(good) / seconds
    mean_busy = sum(busy_slots) / len(busy_slots) if busy_slots else 0.0
    return Figures(
        asked=len(answers),
        failed=len(answers) - len(good),
        seconds=round(seconds, 1),
        first_ms=_percentiles([answer.first for answer in good]),
        whole_ms=_percentiles([answer.whole for answer in good]),
        rate=round(rate, 2),
        rate_each=round(rate / set_up.replicas, 2),
        tokens_per_s=round(tokens_per_s, 1),
        busy=round(100 * mean_busy / (set_up.replicas * set_up.slots), 1),
        cost=cost(set_up.price, set_up.replicas, tokens_per_s),
    )


def lasted(answers: Sequence[Timed], planned: float, *, stopped: bool) -> float:
    """Seconds for which requests arrived; of a load that was stopped, until the last one did."""
    return max(timed.since for timed in answers) if stopped and answers else planned


def cost(price: float | None, replicas: int, tokens_per_s: float) -> float | None:
    """Of a million tokens, read or written: every replica is paid for, busy or not."""
    if price is None or tokens_per_s <= 0:
        return None
    return round(price * replicas / (tokens_per_s * 3600) * 1e6, 4)


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{share * 100:.0f}": round(percentile(seconds, share) * 1000, 1) for share in SHARES}


def marks(figures: Figures, set_up: Setting, memory: Sequence[Growth]) -> list[Target]:
    """What was to be reached; the cost only with a price, memory only where processes were seen for long enough."""
    found = [
        Target("P95 to the first text", "ms", figures.first_ms["p95"], "at_most", FIRST_MS),
        Target("requests for each replica", "1/s", figures.rate_each, "at_least", EACH_REPLICA),
        Target("failed (availability 99.99 %)", "of 10,000", figures.failed_of_10000, "at_most", FAILED),
        Target("utilisation of replicas", "%", figures.busy, "at_least", BUSY),
        Target("deployment", "s", round(set_up.deployed_s, 1), "at_most", DEPLOYED_S),
    ]
    if figures.cost is not None:
        found.append(Target("a million tokens", "of money", figures.cost, "at_most", PRICE))
    if memory:
        # Growths are sorted by the upper end of their interval.
        worst = memory[0]
        case = f"memory, at most ({worst.name})"
        found.append(Target(case, "MiB/min", round(worst.a_minute.high, 2), "at_most", GROWS_MIB))
    return found
