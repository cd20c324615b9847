"""What a request changes in the model's logits before a token is chosen from them."""

import torch

from serve_app.engine.types import SamplingParams


class Penalties:
    """Bias first, then repetition, then presence and frequency, which is also vLLM's order.

    One request's; it counts the tokens it is told of.
    """

    def __init__(
        self, params: SamplingParams, prompt: tuple[int, ...], vocab_size: int, device: torch.device
    ) -> None:
        self._repetition = params.repetition_penalty
        self._presence, self._frequency = params.presence_penalty, params.frequency_penalty
        self._bias: tuple[torch.Tensor, torch.Tensor] | None = None
        if params.logit_bias:
            ids = [int(token) for token in params.logit_bias]
            amounts = torch.tensor(list(params.logit_bias.values()), dtype=torch.float32, device=device)
            self._bias = torch.tensor(ids, device=device), amounts
        self._seen: torch.Tensor | None = None
        if self._repetition != 1.0:
            self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
            self._seen[torch.tensor(prompt, device=device)] = True
        self._counts: torch.Tensor | None = None
        if self._presence or self._frequency:
            self._counts = torch.zeros(vocab_size, device=device)

    @property
    def any(self) -> bool:
        return not (self._bias is None and self._seen is None and self._counts is None)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Changed logits [vocabulary]; those given stay as they are."""
        if self._bias is not None:
            logits = logits.index_add(0, *self._bias)
        if self._seen is not None:
            penalised = torch.where(logits > 0, logits / self._repetition, logits * self._repetition)
            logits = torch.where(self._seen, penalised, logits)
        if self._counts is not None:
            logits = logits - self._counts * self._frequency - (self._counts > 0) * self._presence
        return logits

    def saw(self, token: int) -> None:
        """Count a token of the answer."""
        if self._seen is not None:
            self._seen[token] = True
        if self._counts is not None:
            self._counts[token] += 1
