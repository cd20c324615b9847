"""Serve's autoscaling policy for models: a shell around `serve_app.models.scaling`.

It is called in Serve's controller several times a second, so it neither waits nor raises.
"""

import math
from typing import Any

from ray.serve.config import AutoscalingContext

from manta.telemetry import get_logger
from serve_app.models.scaling import Load, Targets, replicas_wanted

REQUESTS = "manta_requests"
TOKENS = "manta_tokens"
"""What a replica tells of itself, by `record_autoscaling_stats`."""
POLICY = "serve_app.models.scaling_policy:LoadPolicy"

logger = get_logger("models")


class LoadPolicy:
    """Replicas by requests and tokens in flight.

    Args:
        target_ongoing: requests that a replica is meant to have.
        target_tokens: tokens likewise; 0: they are not looked at.
    """

    def __init__(self, target_ongoing: float, target_tokens: float = 0.0) -> None:
        self._targets = Targets(target_ongoing, target_tokens)

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        try:
            return replicas_wanted(load_of(context), self._targets), {}
        except Exception:
            # A policy that raises stops the scaling of all applications.
            logger.exception("the load of %s cannot be told", context.app_name)
            return context.target_num_replicas, {}


def load_of(context: AutoscalingContext) -> Load:
    """What Serve knows of a deployment's load.

    Replicas' own numbers go before those of the callers' handles, which may count a stream that was broken off for
    ever (ray#61551). They are only taken if each replica has told them.
    """
    told: dict[str, dict[Any, float]] = context.aggregated_metrics or {}
    requests, tokens = _sum(told.get(REQUESTS), context), _sum(told.get(TOKENS), context)
    return Load(
        replicas=context.current_num_replicas,
        wanted=context.target_num_replicas,
        running=_amount(context.total_running_requests) if requests is None else requests,
        queued=_amount(context.total_queued_requests),
        tokens=tokens,
    )


def _sum(told: dict[Any, float] | None, context: AutoscalingContext) -> float | None:
    if not told or any(replica not in told for replica in context.running_replicas):
        return None
    return sum(_amount(told[replica]) for replica in context.running_replicas)


def _amount(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) and value > 0 else 0.0
