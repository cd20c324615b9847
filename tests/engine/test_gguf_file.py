"""A model written as GGUF by the `gguf` package answers like the same model read from safetensors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from serve_app.engine.checkpoint import SafetensorsCheckpoint
from serve_app.engine.engine import Engine, EngineConfig, SamplingParams
from serve_app.engine.gguf_file import GgufFile
from tests.engine.support import QUESTIONS, SMALL_SIZES, generate, randomise, small_tokenizer

gguf = pytest.importorskip("gguf")

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    if stem in NAMES:
        return f"{NAMES[stem]}.{kind}"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.{kind}"


def interleave(values: np.ndarray, heads: int) -> np.ndarray:
    """The row order in which GGUF keeps q and k of the llama family."""
    return values.reshape(heads, 2, len(values) // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)


def write_gguf(folder: Path, kind: str, target: Path) -> None:
    checkpoint = SafetensorsCheckpoint(folder)
    spec = checkpoint.spec
    writer = gguf.GGUFWriter(target, kind)
    writer.add_block_count(spec.layers)
    writer.add_context_length(spec.context)
    writer.add_embedding_length(spec.hidden)
    writer.add_feed_forward_length(spec.feed_forward)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.kv_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    writer.add_rope_freq_base(spec.rope_theta)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(sorted(model["vocab"], key=model["vocab"].get))
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_token_types([3, 3, 3, *[1] * (spec.vocab_size - 3)])
    writer.add_eos_token_id(2)
    for name in checkpoint.names():
        values = checkpoint.read(name).numpy()
        if kind == "llama" and ("q_proj" in name or "k_proj" in name):
            values = interleave(values, spec.heads if "q_proj" in name else spec.kv_heads)
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def build(kind: str) -> torch.nn.Module:
    import transformers

    config = {
        "llama": transformers.LlamaConfig,
        "qwen2": transformers.Qwen2Config,
        "qwen3": transformers.Qwen3Config,
    }
    more = {"head_dim": 32} if kind == "qwen3" else {}
    tied = kind == "qwen2"
    return transformers.AutoModelForCausalLM.from_config(
        config[kind](**SMALL_SIZES, **more, tie_word_embeddings=tied)
    )


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.usefixtures("one_thread")
def test_same_answers_from_both_formats(kind: str, tmp_path: Path) -> None:
    model = build(kind)
    randomise(model, seed=9)
    model.save_pretrained(tmp_path)
    small_tokenizer(tmp_path)
    write_gguf(tmp_path, kind, tmp_path / "model.gguf")
    params = SamplingParams(max_tokens=40)
    answers = []
    for path in (tmp_path, tmp_path / "model.gguf"):
        engine = Engine.load(path, EngineConfig(dtype="float32", kv_tokens=512))
        engine.start()
        prompt = engine.encode(QUESTIONS[3])
        answers.append((prompt, generate(engine, prompt, params).tokens("only")))
        engine.stop()
        assert engine.architecture == kind
    assert answers[0] == answers[1]


def test_dequantised_like_the_gguf_package(smol_path: Path) -> None:
    """Our parser finds the same metadata and the same tensors as the package's reader."""
    ours, theirs = GgufFile(smol_path), gguf.GGUFReader(smol_path)
    assert set(ours.metadata) == {name for name in theirs.fields if not name.startswith("GGUF.")}
    assert ours.metadata["tokenizer.ggml.tokens"] == theirs.fields["tokenizer.ggml.tokens"].contents()
    assert ours.metadata["llama.rope.freq_base"] == 100_000.0
    assert set(ours.tensors) == {tensor.name for tensor in theirs.tensors}
    for tensor in theirs.tensors[1:8]:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(ours.read(tensor.name), expected)
