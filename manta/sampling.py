"""How a model draws its tokens, and what it tells of the choice."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sampling:
    """What shapes an answer besides temperature and top-p; the defaults change nothing.

    `top_k` 0 is no limit. `min_p` drops tokens less likely than this part of the likeliest one's probability.
    `repetition_penalty` divides the logits of tokens seen in prompt and answer, as in Hugging Face's generate;
    `presence_penalty` and `frequency_penalty` are subtracted for tokens of the answer, as in OpenAI's API.
    `logit_bias`: token ids, as strings, to what is added to their logits (-100 forbids).
    """

    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[str, float] = field(default_factory=dict)
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of an answer, its log-probability under the model before sampling, and the likeliest in its place.

    `top` holds (text, token id, log-probability) as plain lists, the likeliest first.
    """

    text: str
    token: int
    logprob: float
    top: tuple[list[object], ...] = ()
