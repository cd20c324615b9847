"""What the settings say about calls of each model."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from manta.model_settings import ModelSettings
from serve_app.models.calls.breaker import BreakerRules
from serve_app.models.calls.retry import RetryRules


@dataclass(frozen=True, slots=True)
class CallRules:
    """`fallbacks`: who answers for it, in order. `on_length`: also when the prompt is too long for it."""

    retry: RetryRules = field(default_factory=RetryRules)
    breaker: BreakerRules = field(default_factory=BreakerRules)
    fallbacks: tuple[str, ...] = ()
    on_length: bool = False

    @classmethod
    def of(cls, model: ModelSettings) -> "CallRules":
        return cls(
            RetryRules(**model.retry.model_dump()),
            BreakerRules(**model.breaker.model_dump()),
            model.fallbacks,
            model.fallback_on_length,
        )


def chain(name: str, fallbacks: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Who is asked, in order: the model, then each of its fallbacks with their own behind it, everyone once."""
    found: list[str] = []
    waiting = [name]
    while waiting:
        following = waiting.pop()
        if following not in found:
            found.append(following)
            waiting.extend(reversed(fallbacks.get(following, ())))
    return tuple(found)
