"""The values that cross the engine's boundary. No torch here, so anyone may import it."""

from dataclasses import dataclass
from typing import Literal

from manta.sampling import Sampling, TokenLogprob
from serve_app.engine.forms.form import Form

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class SamplingParams(Sampling):
    """How to choose tokens and when to stop: what `Sampling` says, and the rest. `temperature == 0` is greedy.

    `max_tokens` counts every sampled token, the end-of-sequence token included.
    `stop`: the text ends before the first of these strings; one that begins after `stop_until` (if that is not
    empty) does not count. `logprobs`: None, or how many alternatives to tell for each token.
    `form`: what the output must be like; it then ends where the form does, whatever `ignore_eos` says.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_until: str = ""
    logprobs: int | None = None
    form: Form | None = None
    skip_special_tokens: bool = True


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One generation. A lower `priority` number runs first; equal numbers run first in, first out.

    `deadline` is in monotonic seconds; when it lapses the slot is freed with finish reason `cancelled`.
    """

    id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    priority: int = 0
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """What one choice added to a request: `text` and `token_ids` are new, the counts are totals so far.

    `text` may be empty while a stop string or a character is incomplete. `cached_tokens` of the
    prompt were not computed but copied from an earlier request with the same beginning. `logprobs`: of the new
    tokens, where they were asked for; a token that ends the answer has none.
    """

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    error: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether it ended without an answer of its own."""
        return self.finish_reason in ("error", "cancelled")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How to load and run a model.

    `dtype`: auto, float32 or bfloat16; auto is bfloat16 only where the processor multiplies it natively.
    `device`: auto, cpu or cuda[:n]. `threads`: 0 leaves torch's own choice. `kv_tokens` bounds the KV
    memory, `kv_page` is the number of places handed out at once. `context_window`: 0 takes the model's.
    `prefill_chunk`: prompt tokens computed per step. `speculate`: tokens guessed at most from what a request repeats,
    where the engine's step is compiled; 0: none. `quantize`: none, int8, int4, or mixed (the outputs of
    attention and MLP in 16 bits, the rest in 8); on the CPU only. `cuda_graphs`: steps without prompts are recorded on
    a GPU and played back.
    """

    dtype: str = "auto"
    device: str = "auto"
    threads: int = 0
    max_batch: int = 16
    kv_tokens: int = 16384
    context_window: int = 0
    prefill_chunk: int = 512
    kv_page: int = 128
    quantize: str = "none"
    speculate: int = 5
    cuda_graphs: bool = True


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters since start, and the present load. `cached_tokens` counts prompt tokens not recomputed,
    `preempted` how often a request gave its KV memory to another. `guessed` tokens were computed beside the next one,
    `guessed_right` is how many of them were the model's own choice.
    """

    waiting: int
    running: int
    kv_tokens_used: int
    kv_tokens_total: int
    steps: int
    prefill_tokens: int
    decode_tokens: int
    cached_tokens: int
    preempted: int
    guessed: int
    guessed_right: int
