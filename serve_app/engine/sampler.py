"""Chooses the next token from logits."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from manta.errors import ModelError
from serve_app.engine.forms.guide import Guide
from serve_app.engine.penalties import Penalties
from serve_app.engine.types import SamplingParams

# Most nuclei fit in this many tokens, which spares sorting the whole vocabulary.
_NUCLEUS_FIRST_TRY = 1024


@dataclass(frozen=True, slots=True)
class Scores:
    """Log-probabilities under the model alone: of the chosen token, and the likeliest ones as (id, value)."""

    chosen: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """`scores` where the request asked for them."""

    token: int
    scores: Scores | None = None


class Sampler:
    """One request's choices: its parameters, its own random generator, its form, and the tokens seen so far.

    All of it survives a pre-emption, which concerns KV memory alone.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt: tuple[int, ...],
        vocab_size: int,
        device: torch.device,
        guide: Guide | None = None,
    ) -> None:
        self._params = params
        self._guide = guide
        self._generator: torch.Generator | None = None
        if params.temperature > 0:
            self._generator = torch.Generator(device=device)
            if params.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(params.seed % 2**64)
        self._penalties = Penalties(params, prompt, vocab_size, device)
        self._greedy = self._generator is None and not self._penalties.any
        self.plain = self._greedy and guide is None and params.logprobs is None
        """Whether the choice is the largest logit and nothing else, so that many rows can be done at once."""

    @property
    def form_ended(self) -> bool:
        """Whether the answer's form is complete and nothing may follow."""
        return self._guide is not None and self._guide.stopped

    def choose(self, logits: torch.Tensor, likeliest: int | None = None) -> Choice:
        """The next token from float32 logits [vocabulary], `likeliest` being the largest if it is known.

        Raises:
            ModelError, RuntimeError: no token can be chosen.
        """
        token = self._pick(logits, int(logits.argmax()) if likeliest is None else likeliest)
        self._take(token)
        asked = self._params.logprobs
        return Choice(token, None if asked is None else _scores(logits, token, asked))

    def forced(self, limit: int) -> tuple[int, ...]:
        """Further tokens, as far as the form leaves no choice: the model need not be asked for them.

        None where logprobs are asked for, which only the model can tell.
        """
        if self._guide is None or self._params.logprobs is not None:
            return ()
        taken: list[int] = []
        for token in self._guide.forced()[:limit]:
            if token in self._params.stop_token_ids:
                break
            self._take(token)
            taken.append(token)
        return tuple(taken)

    def _take(self, token: int) -> None:
        self._penalties.saw(token)
        if self._guide is not None:
            self._guide.accept(token)

    def _pick(self, logits: torch.Tensor, likeliest: int) -> int:
        guide = self._guide
        if guide is not None and (forced := guide.forced()):
            return forced[0]
        if self._greedy and (guide is None or guide.allows(likeliest)):
            return likeliest
        logits = self._penalties.apply(logits)
        if guide is not None:
            logits = _masked(logits, guide.allowed())
        return int(logits.argmax()) if self._generator is None else self._draw(logits, self._generator)

    def _draw(self, logits: torch.Tensor, generator: torch.Generator) -> int:
        weights, ids = distribution(logits, self._params)
        drawn = torch.multinomial(weights, 1, generator=generator)
        return int(drawn if ids is None else ids[drawn])


def distribution(logits: torch.Tensor, params: SamplingParams) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weights to draw with, and the token ids they belong to (None: all, in order).

    Temperature, top-k, top-p and min-p in this order, as in Hugging Face's generate.
    """
    values, ids = _candidates(logits / params.temperature, params.top_k, params.top_p)
    weights = values.softmax(dim=-1)
    if params.min_p > 0:
        weights = weights * (weights >= params.min_p * weights.max())
    return weights, ids


def _candidates(logits: torch.Tensor, top_k: int, top_p: float) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits that may be drawn and their token ids (None: all, in order)."""
    if top_k <= 0 and top_p >= 1:
        return logits, None
    size = logits.shape[-1]
    if top_k > 0:
        values, ids = logits.topk(min(top_k, size))
        return (values, ids) if top_p >= 1 else _nucleus(values, ids, values.logsumexp(-1), top_p)
    total = logits.logsumexp(-1)
    values, ids = logits.topk(min(_NUCLEUS_FIRST_TRY, size))
    if float((values - total).exp().sum()) < top_p:
        values, ids = logits.sort(descending=True)
    return _nucleus(values, ids, total, top_p)


def _nucleus(
    values: torch.Tensor, ids: torch.Tensor, total: torch.Tensor, top_p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The fewest first tokens (values sorted, largest first) whose probabilities reach `top_p`."""
    probabilities = (values - total).exp()
    before = probabilities.cumsum(-1) - probabilities
    kept = max(1, int((before < top_p).sum()))
    return values[:kept], ids[:kept]


def _masked(logits: torch.Tensor, allowed: npt.NDArray[np.bool_]) -> torch.Tensor:
    """The logits where tokens that are not allowed have none."""
    if logits.device.type != "cpu":
        return logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), -math.inf)
    # A row is too little for torch's threads, which would wait for each other.
    return torch.from_numpy(np.where(allowed, logits.numpy(), np.float32(-math.inf)))


def _scores(logits: torch.Tensor, token: int, count: int) -> Scores:
    scores = logits.log_softmax(dim=-1)
    values, ids = scores.topk(min(count, len(scores)))
    return Scores(float(scores[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))


def likeliest(logits: torch.Tensor) -> list[int]:
    """The first largest of each row. On a CPU numpy finds it in a tenth of torch's time."""
    if logits.device.type != "cpu":
        return logits.argmax(dim=-1).tolist()
    return logits.numpy().argmax(-1).tolist()


def choose_token(sampler: Sampler, logits: torch.Tensor, best: int) -> Choice | Exception:
    """One request's token for a row of logits, or why none could be chosen."""
    if sampler.plain:
        return Choice(best)
    try:
        return sampler.choose(logits, best)
    except (ModelError, RuntimeError, ValueError, IndexError) as error:
        return error
