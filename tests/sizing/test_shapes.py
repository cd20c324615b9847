"""Sizes of published models against their published figures."""

import json
from pathlib import Path

import pytest

from manta.errors import InvalidInput
from manta.sizing.catalogue import MODELS
from manta.sizing.model_files import shape_of_config, shape_of_file, shape_of_metadata

# Parameters, in millions, by the model cards and the safetensors indexes.
PUBLISHED = {
    "llama-3.1-8b": 8030.26,
    "llama-3.1-70b": 70553.71,
    "llama-3.2-1b": 1235.81,
    "llama-3.2-3b": 3212.75,
    "mistral-7b": 7248.02,
    "qwen2.5-0.5b": 494.03,
    "qwen2.5-7b": 7615.62,
    "qwen2.5-72b": 72706.20,
    "qwen3-0.6b": 596.05,
    "qwen3-8b": 8190.74,
    "qwen3-32b": 32762.12,
    "smollm2-135m": 134.515008,
}
LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_parameters_are_the_published_ones(name: str):
    assert MODELS[name].parameters / 1e6 == pytest.approx(PUBLISHED[name], rel=1e-4)


def test_llama_8b_in_bf16():
    shape = MODELS["llama-3.1-8b"]
    assert shape.weight_bytes("bf16") / 1e9 == pytest.approx(16.06, abs=0.005)
    assert shape.kv_bytes("bf16") == 131_072
    assert shape.kv_bytes("fp8") == 65_536


def test_what_heads_split_over():
    assert MODELS["llama-3.1-70b"].splits_over(8)
    assert MODELS["qwen2.5-7b"].splits_over(4)
    assert not MODELS["qwen2.5-7b"].splits_over(8)
    assert not MODELS["smollm2-135m"].splits_over(2)


def test_a_configuration_gives_the_shape_of_the_catalogue(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    found = shape_of_file(tmp_path)
    assert found.parameters == MODELS["llama-3.1-8b"].parameters
    assert found == shape_of_file(tmp_path / "config.json")


def test_gguf_metadata_gives_it_too():
    values = {
        "attention.head_count": 32,
        "attention.head_count_kv": 8,
        "embedding_length": 4096,
        "block_count": 32,
        "feed_forward_length": 14336,
        "context_length": 131072,
    }
    metadata = {"general.architecture": "llama", **{f"llama.{key}": value for key, value in values.items()}}
    tensors = {"token_embd.weight": (4096, 128256), "output.weight": (4096, 128256)}
    assert shape_of_metadata(metadata, tensors, "x", "x").parameters == MODELS["llama-3.1-8b"].parameters


def test_the_embedded_file_is_the_shape_it_is_reckoned_with():
    from serve_app.engine.weights import embedded_llm_path

    found, known = shape_of_file(embedded_llm_path()), MODELS["smollm2-135m"]
    assert (found.parameters, found.context) == (known.parameters, known.context)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model_type": "mamba"}, "not understood"),
        ({"num_experts": 128}, "mixture of experts"),
        ({"hidden_size": None}, "incomplete"),
        ({"num_key_value_heads": 5}, "impossible"),
    ],
)
def test_what_cannot_be_reckoned_is_refused(changed: dict[str, object], words: str):
    with pytest.raises(InvalidInput, match=words):
        shape_of_config({**LLAMA_8B, **changed}, "x", "x")


@pytest.mark.parametrize("name", ["config.json", "model.gguf"])
def test_a_broken_file_is_refused(name: str, tmp_path: Path):
    (tmp_path / name).write_text("no")
    with pytest.raises(InvalidInput, match="cannot read"):
        shape_of_file(tmp_path / name)
