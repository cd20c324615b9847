"""Greedy output in float32 equals transformers' token for token, with prompts arriving into a running batch."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from serve_app.engine.engine import Engine, EngineConfig, SamplingParams
from tests.engine.support import (
    QUESTIONS,
    SMALL_SIZES,
    Answers,
    Staggered,
    randomise,
    reference_generate,
    small_tokenizer,
)

# Small chunks, so that prompts are computed in several steps beside decoding requests.
CONFIG = EngineConfig(dtype="float32", max_batch=16, kv_tokens=4096, prefill_chunk=48)
NEW_TOKENS = 64
SAMPLE = sorted({*range(0, 50, 5), *range(0, 50, 12), *range(3, 50, 7)})
"""Of each form, with those whose answers other tests want too."""


def _compare(engine: Engine, prompts: list[tuple[int, ...]], expected: list[list[int]]) -> Staggered:
    staggered = Staggered(engine, prompts, SamplingParams(max_tokens=NEW_TOKENS), every=15)
    made = staggered.run()
    engine.stop()
    differing = [index for index in range(len(prompts)) if made[index] != expected[index]]
    assert not differing, f"prompts {differing} differ"
    print(f"largest batch: {staggered.largest_batch}")
    assert staggered.largest_batch >= 8, "the prompts were not batched"
    assert any(len(tokens) == NEW_TOKENS for tokens in made)
    return staggered


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "wanted", [SAMPLE, pytest.param(range(50), marks=pytest.mark.long)], ids=["sample", "all"]
)
def test_smollm2(
    smol_loaded: Engine, smol_answers: Answers, smol_prompts: list[tuple[int, ...]], wanted: Sequence[int]
) -> None:
    prompts = [smol_prompts[index] for index in wanted]
    expected = smol_answers.to(prompts)
    engine = Engine(smol_loaded.bundle, CONFIG)
    _compare(engine, prompts, expected)
    # The prompts share the system message, so most of them must have copied it.
    assert engine.stats().cached_tokens > (len(prompts) - 10) * 16


def _llama() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(**SMALL_SIZES, tie_word_embeddings=False, attention_bias=True, mlp_bias=True)
    )


def _llama3() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    scaling = {
        "rope_type": "llama3",
        "rope_theta": 5000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    return LlamaForCausalLM(LlamaConfig(**SMALL_SIZES, tie_word_embeddings=True, rope_parameters=scaling))


def _mistral() -> torch.nn.Module:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**SMALL_SIZES, head_dim=16, sliding_window=None))


def _qwen2() -> torch.nn.Module:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**SMALL_SIZES, tie_word_embeddings=True))


def _qwen3() -> torch.nn.Module:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**SMALL_SIZES, head_dim=32, tie_word_embeddings=False))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("shard", ["5GB", "150KB"], ids=["single", "sharded"])
@pytest.mark.parametrize("build", [_llama, _llama3, _mistral, _qwen2, _qwen3])
@pytest.mark.usefixtures("one_thread")
def test_random_models(build, shard: str, device: str, tmp_path: Path) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device that this build of torch can use")
    model = build().eval()
    randomise(model, seed=7)
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard != "5GB")
    tokenizer = small_tokenizer(tmp_path)
    prompts = [tuple(tokenizer.encode(question).ids) for question in QUESTIONS]
    engine = Engine.load(tmp_path, replace(CONFIG, device=device))
    assert torch.device(engine.device).type == device
    _compare(engine, prompts, reference_generate(model, prompts, NEW_TOKENS, end_id=2))
