"""The shape of a model, read from a Hugging Face `config.json` or from GGUF metadata."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from manta.errors import ModelLoadError

_SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
_FIX = f"use a checkpoint of one of: {', '.join(_SUPPORTED)}"


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Stretching of rotary frequencies: `linear` divides all, `llama3` only the slow ones."""

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything the forward pass needs to know besides the weights. `context` is in tokens."""

    architecture: str
    vocab_size: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    norm_eps: float
    context: int
    rope_theta: float
    rope_scaling: RopeScaling | None
    tied: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool

    def __post_init__(self) -> None:
        sizes = (
            self.vocab_size,
            self.hidden,
            self.layers,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.context,
        )
        if min(sizes) < 1 or self.heads % self.kv_heads or self.head_dim % 2:
            raise ModelLoadError("the model's configuration has impossible sizes", fix="get the file again")


def spec_from_hf(config: Mapping[str, Any]) -> ModelSpec:
    """Read a `config.json`. Raises ModelLoadError for a family or feature that is not supported."""
    kind = str(config.get("model_type", "unknown"))
    if kind not in _SUPPORTED:
        raise ModelLoadError(f"model type {kind!r} is not supported", fix=_FIX)
    if config.get("hidden_act", "silu") != "silu":
        raise ModelLoadError(f"activation {config['hidden_act']!r} is not supported", fix=_FIX)
    try:
        heads = int(config["num_attention_heads"])
        return ModelSpec(
            architecture=kind,
            vocab_size=int(config["vocab_size"]),
            hidden=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
            feed_forward=int(config["intermediate_size"]),
            norm_eps=float(config["rms_norm_eps"]),
            context=_hf_context(kind, config),
            rope_theta=_hf_rope_theta(config),
            rope_scaling=_hf_rope_scaling(config),
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=kind == "qwen2" or bool(config.get("attention_bias", False)),
            output_bias=kind != "qwen2" and bool(config.get("attention_bias", False)),
            mlp_bias=bool(config.get("mlp_bias", False)),
            qk_norm=kind == "qwen3",
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelLoadError(
            f"config.json is incomplete: {type(error).__name__} {error}", fix="get the file again"
        ) from error


def _hf_context(kind: str, config: Mapping[str, Any]) -> int:
    """Within a sliding window full attention is the same thing, so the window becomes the limit."""
    context = int(config["max_position_embeddings"])
    slides = kind == "mistral" or config.get("use_sliding_window", False)
    window = config.get("sliding_window") if slides else None
    return min(context, int(window)) if window else context


def _rope_parameters(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def _hf_rope_theta(config: Mapping[str, Any]) -> float:
    return float(_rope_parameters(config).get("rope_theta") or config.get("rope_theta") or 10_000.0)


def _hf_rope_scaling(config: Mapping[str, Any]) -> RopeScaling | None:
    values = _rope_parameters(config)
    kind = str(values.get("rope_type") or values.get("type") or "default")
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", float(values["factor"]))
    if kind == "llama3":
        return RopeScaling(
            "llama3",
            float(values["factor"]),
            float(values["low_freq_factor"]),
            float(values["high_freq_factor"]),
            int(values["original_max_position_embeddings"]),
        )
    raise ModelLoadError(f"RoPE scaling {kind!r} is not supported", fix="use default, linear or llama3")


def spec_from_gguf(metadata: Mapping[str, Any], tensors: Collection[str]) -> ModelSpec:
    """Read GGUF metadata; which biases and norms exist is told by the tensor names."""
    kind = str(metadata.get("general.architecture", "unknown"))
    if kind not in _SUPPORTED:
        raise ModelLoadError(f"GGUF architecture {kind!r} is not supported", fix=_FIX)
    try:
        heads = int(metadata[f"{kind}.attention.head_count"])
        hidden = int(metadata[f"{kind}.embedding_length"])
        return ModelSpec(
            architecture=kind,
            vocab_size=len(metadata["tokenizer.ggml.tokens"]),
            hidden=hidden,
            layers=int(metadata[f"{kind}.block_count"]),
            heads=heads,
            kv_heads=int(metadata.get(f"{kind}.attention.head_count_kv") or heads),
            head_dim=int(metadata.get(f"{kind}.attention.key_length") or hidden // heads),
            feed_forward=int(metadata[f"{kind}.feed_forward_length"]),
            norm_eps=float(metadata[f"{kind}.attention.layer_norm_rms_epsilon"]),
            context=int(metadata[f"{kind}.context_length"]),
            rope_theta=float(metadata.get(f"{kind}.rope.freq_base") or 10_000.0),
            rope_scaling=_gguf_rope_scaling(kind, metadata),
            tied="output.weight" not in tensors,
            qkv_bias="blk.0.attn_q.bias" in tensors,
            output_bias="blk.0.attn_output.bias" in tensors,
            mlp_bias="blk.0.ffn_gate.bias" in tensors,
            qk_norm="blk.0.attn_q_norm.weight" in tensors,
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelLoadError(
            f"the GGUF metadata is incomplete: {type(error).__name__} {error}", fix="get the file again"
        ) from error


def _gguf_rope_scaling(kind: str, metadata: Mapping[str, Any]) -> RopeScaling | None:
    scaling = str(metadata.get(f"{kind}.rope.scaling.type") or "none")
    if scaling == "none":
        return None
    if scaling == "linear":
        return RopeScaling("linear", float(metadata[f"{kind}.rope.scaling.factor"]))
    raise ModelLoadError(f"RoPE scaling {scaling!r} is not supported", fix="use a file without it")
