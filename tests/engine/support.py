"""What the engine's tests share: prompts, a collector of outputs, staggered submission, small random models."""

import threading
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from serve_app.engine.engine import Engine
from serve_app.engine.types import EngineOutput, GenerationRequest, SamplingParams

DEADLINE = 200.0

SMALL_SIZES = {
    "vocab_size": 400,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

SUBJECTS = (
    "the tides",
    "a replica",
    "photosynthesis",
    "compound interest",
    "the French Revolution",
    "binary search",
    "sourdough bread",
    "vaccines",
    "glaciers",
    "a good night's sleep",
)
FORMS = (
    "What is {}?",
    "Explain {} to a child in two sentences.",
    "List three facts about {} and number them.",
    "Write a short, friendly e-mail to a colleague that explains why {} matters to our work, "
    "names one common mistake, and ends with a question.",
    "Context: the meeting of 12 March 2024 was about {}. It began at 09:30 and ended at 11:45. Four people "
    "came, two were ill, and one joined by telephone from Zürich. They agreed to write down what they know, "
    "to ask an expert, and to decide in April. Question: what did they agree on? Answer in one sentence.",
)
QUESTIONS = tuple(form.format(subject) for subject in SUBJECTS for form in FORMS)
assert len(QUESTIONS) == 50


def needs(*packages: str) -> pytest.MarkDecorator:
    """Tests that take more than torch and transformers, which is all that a machine for GPU tests may have."""
    missing = [package for package in packages if not installed(package)]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


class Collector:
    """Receives outputs from the engine's thread and lets a test wait for their end."""

    def __init__(self) -> None:
        self.outputs: dict[str, list[EngineOutput]] = {}
        self._ended = threading.Condition()

    def __call__(self, output: EngineOutput) -> None:
        with self._ended:
            self.outputs.setdefault(output.request_id, []).append(output)
            self._ended.notify_all()

    def last(self, id: str) -> EngineOutput:
        """The final output of a request; waits for it."""
        with self._ended:
            ended = self._ended.wait_for(lambda: self._finished(id), timeout=DEADLINE)
        assert ended, f"request {id} did not end"
        return self.outputs[id][-1]

    def wait_tokens(self, id: str, count: int) -> None:
        """Wait until a request has sampled so many tokens or has ended."""
        with self._ended:
            assert self._ended.wait_for(
                lambda: self._finished(id) or self.tokens_now(id) >= count, timeout=DEADLINE
            )

    def tokens_now(self, id: str) -> int:
        return sum(len(output.token_ids) for output in self.outputs.get(id, []))

    def _finished(self, id: str) -> bool:
        return bool(self.outputs.get(id)) and self.outputs[id][-1].finish_reason is not None

    def tokens(self, id: str) -> list[int]:
        self.last(id)
        return [token for output in self.outputs[id] for token in output.token_ids]

    def text(self, id: str) -> str:
        self.last(id)
        return "".join(output.text for output in self.outputs[id])


def generate(engine: Engine, prompt: Sequence[int], params: SamplingParams, id: str = "only") -> Collector:
    """Run one request to its end."""
    collector = Collector()
    engine.submit(GenerationRequest(id, tuple(prompt), params), collector)
    collector.last(id)
    return collector


class Staggered:
    """Submits the next prompt each time so many more tokens were sampled, so that all arrive amid others.

    The first two wait for the engine's start, the others are submitted in its thread: the batches of each step
    depend on nothing but the tokens.
    """

    def __init__(
        self, engine: Engine, prompts: Sequence[Sequence[int]], params: SamplingParams, every: int
    ) -> None:
        self._engine = engine
        self._prompts = prompts
        self._params = params
        self._every = every
        self._next = 0
        self._sampled = 0
        self.largest_batch = 0
        self.collector = Collector()

    def run(self) -> list[list[int]]:
        for _ in range(2):
            self._submit()
        self._engine.start()
        results = []
        for index in range(len(self._prompts)):
            results.append(self.collector.tokens(str(index)))
        return results

    def _submit(self) -> None:
        index, self._next = self._next, self._next + 1
        prompt = tuple(self._prompts[index])
        self._engine.submit(GenerationRequest(str(index), prompt, self._params), self._sink)

    def _sink(self, output: EngineOutput) -> None:
        self._sampled += 1
        self.largest_batch = max(self.largest_batch, self._engine.stats().running)
        if self._sampled % self._every == 0 and self._next < len(self._prompts):
            self._submit()
        # The collector hears it last, so that a submission is never missed at the end.
        self.collector(output)


def reference_generate(
    model: torch.nn.Module, prompts: Sequence[Sequence[int]], new_tokens: int, end_id: int | None
) -> list[list[int]]:
    """Greedy continuations by transformers, in left-padded batches, cut after the end token."""
    results: list[list[int]] = []
    for begin in range(0, len(prompts), 25):
        part = prompts[begin : begin + 25]
        longest = max(len(prompt) for prompt in part)
        ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in part])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in part])
        with torch.inference_mode():
            made = model.generate(  # type: ignore[operator]
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=new_tokens,
                do_sample=False,
                eos_token_id=end_id,
                pad_token_id=0,
            )
        for row in made[:, longest:].tolist():
            results.append(row[: row.index(end_id) + 1] if end_id in row else row)
    return results


class Answers:
    """Greedy continuations by transformers, each computed when it is first asked for."""

    def __init__(self, model: torch.nn.Module, new_tokens: int, end_id: int) -> None:
        self._model, self._new_tokens, self._end_id = model, new_tokens, end_id
        self._known: dict[tuple[int, ...], list[int]] = {}

    def to(self, prompts: Sequence[tuple[int, ...]]) -> list[list[int]]:
        new = [prompt for prompt in prompts if prompt not in self._known]
        if new:
            made = reference_generate(self._model, new, self._new_tokens, self._end_id)
            self._known.update(zip(new, made, strict=True))
        return [self._known[prompt] for prompt in prompts]


def small_tokenizer(folder: Path, size: int = 400) -> Tokenizer:
    """Train a byte-level tokenizer on the questions and save it as `tokenizer.json`."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(QUESTIONS, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Give every parameter a random value: fresh models have zero biases and unit norms, which would hide errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 else 0.15 * noise)
