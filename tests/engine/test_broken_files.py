"""A broken model file is one line with cause and fix, never a trace from below."""

import json
import random
import shutil
from pathlib import Path

import pytest

from manta.errors import InvalidConfig, ModelLoadError
from serve_app.engine.engine import Engine, EngineConfig


def fails(path: Path, match: str) -> None:
    with pytest.raises(ModelLoadError, match=match) as caught:
        Engine.load(path, EngineConfig(dtype="float32"))
    assert "\n" not in str(caught.value)
    assert caught.value.fix


def test_missing(tmp_path: Path) -> None:
    fails(tmp_path / "no.gguf", "no model at")
    fails(tmp_path, "neither")


@pytest.mark.parametrize("size", [0, 3, 20, 1_000, 500_000, 5_000_000, 60_000_000])
def test_cut_off_gguf(smol_path: Path, tmp_path: Path, size: int) -> None:
    broken = tmp_path / "cut.gguf"
    with smol_path.open("rb") as whole:
        broken.write_bytes(whole.read(size))
    fails(broken, "cut.gguf")


def test_random_bytes(tmp_path: Path) -> None:
    noise = random.Random(5)
    for index in range(20):
        broken = tmp_path / f"{index}.gguf"
        broken.write_bytes((b"GGUF\x03\x00\x00\x00" if index % 2 else b"") + noise.randbytes(4_000))
        fails(broken, f"{index}.gguf")


def test_a_gguf_of_another_family(smol_path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "other.gguf"
    broken.write_bytes(smol_path.read_bytes().replace(b"llama", b"gemma", 1))
    fails(broken, "'gemma' is not supported")


@pytest.fixture
def folder(small_folder: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(small_folder, copy)
    return copy


def test_empty_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")
    fails(folder, "not a whole safetensors file")


def test_cut_off_safetensors(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    fails(folder, "not a whole safetensors file")


def test_missing_parts(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    fails(folder, "no tokenizer")
    (folder / "model.safetensors").unlink()
    fails(folder, "no model.safetensors")


def test_missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"model.embed_tokens.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    fails(folder, "model-00001-of-00002")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model_type": "bert"}, "'bert' is not supported"),
        ({"hidden_size": 128}, "tensor .* is"),
        ({"num_hidden_layers": 9}, "no tensor model.layers.3"),
        ({"num_attention_heads": None}, "incomplete"),
        ({"num_attention_heads": 5}, "impossible sizes"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "'yarn' is not supported"),
        ({"vocab_size": 300}, "tokenizer knows 400"),
        ({"tie_word_embeddings": False}, "no tensor lm_head"),
    ],
)
def test_wrong_configuration(folder: Path, change: dict[str, object], match: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    fails(folder, match)


def test_config_that_is_not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    fails(folder, "cannot read")
    (folder / "config.json").write_text("[]")
    fails(folder, "not a JSON object")


def test_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    fails(folder, "not a tokenizer")


def test_wrong_settings(folder: Path) -> None:
    with pytest.raises(InvalidConfig, match="'int3'"):
        Engine.load(folder, EngineConfig(dtype="int3"))
    with pytest.raises(InvalidConfig, match="'abacus'"):
        Engine.load(folder, EngineConfig(device="abacus"))
