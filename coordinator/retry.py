"""When a failed step is tried again, and after how long."""

import random

from manta.errors import error_from_json
from manta.graph import Retry

AGENT_LOST = "agent_lost"
"""The process that hosted the agent died; another one can take over at once."""


def may_retry(error: dict[str, str], attempt: int, retry: Retry) -> bool:
    """Whether the error is of a kind that can pass, and tries are left. `attempt` is the one that failed."""
    return attempt < retry.attempts and (error["code"] == AGENT_LOST or error_from_json(error).retryable)


def delay_s(error: dict[str, str], attempt: int, retry: Retry, jitter: random.Random) -> float:
    """Exponential backoff between the policy's bounds, with full jitter above the lower one."""
    if error["code"] == AGENT_LOST:
        return 0.2 * attempt
    ceiling = min(retry.max_s, retry.min_s * 2 ** (attempt - 1))
    return jitter.uniform(min(retry.min_s, ceiling), ceiling)
