"""Log-probabilities of tokens as the routes tell them."""

from collections.abc import Sequence
from typing import Any

from manta.messages import TokenLogprob


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """As /v1/chat/completions and /v1/responses have them."""
    return [
        {**_entry(token.text, token.logprob), "top_logprobs": [_entry(str(t[0]), t[2]) for t in token.top]}
        for token in tokens
    ]


def _entry(text: str, logprob: Any) -> dict[str, Any]:
    return {"token": text, "logprob": float(logprob), "bytes": list(text.encode())}


def legacy_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """As /v1/completions has them; `offset` is the place of the first token in the text, in characters."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_likeliest(token) for token in tokens],
        "text_offset": offsets,
    }


def _likeliest(token: TokenLogprob) -> dict[str, float]:
    likeliest = {str(text): float(logprob) for text, _, logprob in token.top}  # type: ignore[arg-type]
    # The token that was drawn is told even where it was not among the likeliest.
    return {**likeliest, token.text: token.logprob}
