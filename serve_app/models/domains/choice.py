"""Which domain a question belongs to, by its likeness to questions that are known to. Pure."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from manta.messages import ChatRequest, ModelInfo
from manta.usage import Price

NEAREST = 3
"""So many of a domain's examples speak for it: one that is like the question by chance decides nothing."""
HYSTERESIS = 0.05
"""By so much another domain must be nearer for a conversation to go there."""
OTHERWISE = ""
"""The domain of a question that belongs to none."""


def choose_domain(
    vector: NDArray[np.float32],
    domains: Mapping[str, NDArray[np.float32]],
    threshold: float,
    before: str | None = None,
) -> str:
    """The name of the nearest domain, or `OTHERWISE` if none is as near as the threshold.

    Args:
        vector: the question's, of length 1 and shape (dimensions,).
        domains: for each the vectors of its examples, of length 1 and shape (examples, dimensions).
        before: the choice for the conversation's last question, which stands while nothing is nearer by more than
            `HYSTERESIS`; None: there was none.
    """
    nearness = {name: _nearness(vector, examples) for name, examples in domains.items()}
    nearness[OTHERWISE] = threshold
    # Of equal ones the domain, and of domains the first.
    best = max(nearness, key=lambda name: (nearness[name], name != OTHERWISE))
    if before is not None and nearness.get(before, -1.0) >= nearness[best] - HYSTERESIS:
        return before
    return best


def _nearness(vector: NDArray[np.float32], examples: NDArray[np.float32]) -> float:
    cosines = np.sort(examples @ vector)[-NEAREST:]
    return float(cosines.mean())


def question_of(request: ChatRequest) -> str:
    """What is asked: the user's last message, or the raw prompt; empty where there is neither."""
    said = (message.content for message in reversed(request.messages) if message.role == "user")
    return next(said, request.prompt or "").strip()


def common_info(first: ModelInfo, others: Sequence[ModelInfo]) -> ModelInfo:
    """What holds whichever of them answers: the smallest window, the abilities of all, the highest price."""
    infos = (first, *others)
    shared = [ability for ability in first.abilities if all(ability in info.abilities for info in others)]
    return ModelInfo(
        first.id,
        min(info.context_window for info in infos),
        tuple(shared),
        Price(
            max(info.price.input for info in infos),
            max(info.price.output for info in infos),
            max(_cached_price(info.price) for info in infos),
        ),
    )


def _cached_price(price: Price) -> float:
    return price.input if price.cached_input is None else price.cached_input
