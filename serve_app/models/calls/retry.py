"""How long to wait before a model is asked again, and whether at all."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryRules:
    """`attempts` in all. Pauses grow by `factor` from `first_delay_s` up to `max_delay_s` seconds; chance takes
    off up to the share `jitter` of each, so that callers who failed together do not come back together.
    """

    attempts: int = 3
    first_delay_s: float = 0.5
    factor: float = 2.0
    max_delay_s: float = 8.0
    jitter: float = 0.5


def pause_s(
    rules: RetryRules,
    attempt: int,
    draw: float,
    *,
    told_s: float | None = None,
    left_s: float | None = None,
) -> float | None:
    """Seconds before the next try, or None for none.

    Args:
        attempt: of the one that failed, from 1.
        draw: in [0, 1).
        told_s: what the failed one was told to wait; longer than `max_delay_s` is too long.
        left_s: until the caller's deadline. No try begins at or after it.
    """
    if attempt >= rules.attempts:
        return None
    grown = min(rules.max_delay_s, rules.first_delay_s * rules.factor ** (attempt - 1))
    pause = max(grown * (1 - rules.jitter * draw), told_s or 0.0)
    if pause > rules.max_delay_s or (left_s is not None and pause >= left_s):
        return None
    return pause
