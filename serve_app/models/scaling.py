"""How many replicas a model wants, decided purely. Bounds and delays are Serve's.

Up at once to what the load needs, though at most to twice what runs; down by one at a time. Between the two lies a
band in which nothing changes, so that a load at the edge of two numbers does not go to and fro between them.
"""

import math
from dataclasses import dataclass

TOLERANCE = 0.1
"""By this share the load may be over what the replicas are meant to have before another is added, and must be under
what one less would have before one goes."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What a replica is meant to have: `ongoing` requests, `tokens` in flight (0: they are not looked at)."""

    ongoing: float
    tokens: float = 0.0
    tolerance: float = TOLERANCE


@dataclass(frozen=True, slots=True)
class Load:
    """What there is, as means over the look-back.

    `running`: requests in replicas. `queued`: those that no replica has yet. `tokens`: of the prompts in replicas and
    of what their answers may still have; None where replicas do not tell. `replicas`: that run. `wanted`: that were
    decided on last, which may still be starting.
    """

    replicas: int
    wanted: int
    running: float
    queued: float = 0.0
    tokens: float | None = None


def replicas_wanted(load: Load, targets: Targets) -> int:
    """What is to be decided on now; zero only if there is nothing at all."""
    needed = _needed(load, targets)
    if needed > load.wanted * (1 + targets.tolerance):
        return max(load.wanted, min(math.ceil(needed), _twice(load)))
    if load.wanted > 0 and needed <= (load.wanted - 1) * (1 - targets.tolerance):
        return load.wanted - 1
    return load.wanted


def _needed(load: Load, targets: Targets) -> float:
    """Replicas for the load, as a fraction."""
    by_requests = (load.running + load.queued) / targets.ongoing
    if not targets.tokens or load.tokens is None:
        return by_requests
    # What is queued nobody has read: it is taken to be like the rest. Of a mean under one nothing can be said.
    each = load.tokens / max(1.0, load.running)
    return max(by_requests, (load.tokens + load.queued * each) / targets.tokens)


def _twice(load: Load) -> int:
    """Of what runs rather than of what is wanted: that doubles again at each look while replicas start."""
    return 2 * max(1, load.replicas)
