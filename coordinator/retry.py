"""When a failed step is tried again, and after how long."""

import random
from dataclasses import dataclass
from typing import Any

from manta.errors import error_from_json
from manta.graph import Retry

AGENT_LOST = "agent_lost"
"""The process that hosted the agent died; another one can take over at once."""

MAX_DEATHS = 5
"""A step during which this many agents died is taken for their cause."""

SHORTEST_BASE_S = 0.5


@dataclass(slots=True)
class Tries:
    """What a step execution has been through. Deaths are not the step's own failures, and have their own limit."""

    failures: int = 0
    deaths: int = 0

    def note(self, error: dict[str, Any]) -> None:
        if error["code"] == AGENT_LOST:
            self.deaths += 1
        else:
            self.failures += 1


def may_retry(error: dict[str, Any], tries: Tries, retry: Retry) -> bool:
    """Whether the error is of a kind that can pass, and tries are left. `tries` counts it already."""
    if error["code"] == AGENT_LOST:
        return tries.deaths < MAX_DEATHS
    return tries.failures < retry.attempts and error_from_json(error).retryable


def delay_s(error: dict[str, Any], tries: Tries, retry: Retry, jitter: random.Random) -> float:
    """Exponential backoff between the policy's bounds, with jitter from the first retry on."""
    if error["code"] == AGENT_LOST:
        return 0.2 * tries.deaths
    ceiling = min(retry.max_s, max(retry.min_s, SHORTEST_BASE_S) * 2**tries.failures)
    return jitter.uniform(min(retry.min_s, ceiling), ceiling)
