"""Whether a request's parameters make sense, before it is queued."""

import math

from manta.errors import InvalidInput
from serve_app.engine.types import SamplingParams


def check_params(params: SamplingParams, vocab_size: int) -> None:
    """Raises InvalidInput for a value out of its range, or a token id out of the vocabulary."""
    _within("temperature", params.temperature, 0, math.inf)
    _within("top_p", params.top_p, 0, 1)
    _within("min_p", params.min_p, 0, 1)
    _within("top_k", params.top_k, 0, math.inf)
    _within("repetition_penalty", params.repetition_penalty, 0, math.inf)
    for name in ("presence_penalty", "frequency_penalty"):
        _within(name, getattr(params, name), -math.inf, math.inf)
    if params.repetition_penalty == 0:
        raise InvalidInput("repetition_penalty is 0", fix="1 changes nothing")
    if params.logprobs is not None:
        _within("logprobs", params.logprobs, 0, vocab_size)
    for token, amount in params.logit_bias.items():
        _within(f"logit_bias of token {token}", amount, -math.inf, math.inf)
        _known("logit_bias", token, vocab_size)
    for id in params.stop_token_ids:
        _known("stop_token_ids", str(id), vocab_size)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        wanted = f"from {low:g} to {high:g}" if math.isfinite(high) else f"a number of at least {low:g}"
        raise InvalidInput(
            f"{name} cannot be {value}", fix=wanted if math.isfinite(low) else "a finite number"
        )


def _known(name: str, token: str, vocab_size: int) -> None:
    if not (token.isascii() and token.isdigit() and int(token) < vocab_size):
        raise InvalidInput(f"{name}: {token[:20]!r} is no token", fix=f"ids from 0 to {vocab_size - 1}")
