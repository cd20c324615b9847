"""Reads a model's shape from a Hugging Face `config.json`, a folder with one, or the header of a GGUF file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manta.errors import InvalidInput, PlatformError
from manta.sizing.shapes import ModelShape

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def shape_of_file(path: Path) -> ModelShape:
    """The shape of what lies there.

    Raises:
        InvalidInput: it cannot be read, or is of a family whose sizes are not understood.
        PlatformError: a GGUF file, and the `gguf` package is not installed.
    """
    if path.is_dir():
        path = path / "config.json"
    if path.suffix == ".gguf":
        return shape_of_metadata(*_gguf(path), path.stem, str(path))
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"cannot read {path}: {error}", fix="name a config.json, its folder or a .gguf"
        ) from None
    if not isinstance(config, dict):
        raise InvalidInput(f"{path} is not a model's configuration")
    return shape_of_config(config, path.absolute().parent.name, str(path))


def shape_of_config(config: Mapping[str, Any], name: str, source: str) -> ModelShape:
    """From the values of a `config.json`. Raises InvalidInput."""
    kind = str(config.get("model_type", "unknown"))
    _check(kind, config, source)
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        return ModelShape(
            name=name,
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            feed_forward=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            context=int(config["max_position_embeddings"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=kind == "qwen2" or bool(config.get("attention_bias", False)),
            qk_norm=kind == "qwen3",
            source=source,
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InvalidInput(f"{source} is incomplete: {type(error).__name__} {error}") from None


def shape_of_metadata(
    metadata: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]], name: str, source: str
) -> ModelShape:
    """From GGUF metadata and the tensors' shapes. Raises InvalidInput."""
    kind = str(metadata.get("general.architecture", "unknown"))
    _check(kind, {"num_experts": metadata.get(f"{kind}.expert_count")}, source)
    try:
        heads, hidden = (
            int(metadata[f"{kind}.attention.head_count"]),
            int(metadata[f"{kind}.embedding_length"]),
        )
        return ModelShape(
            name=name,
            layers=int(metadata[f"{kind}.block_count"]),
            hidden=hidden,
            heads=heads,
            kv_heads=int(metadata.get(f"{kind}.attention.head_count_kv") or heads),
            head_dim=int(metadata.get(f"{kind}.attention.key_length") or hidden // heads),
            feed_forward=int(metadata[f"{kind}.feed_forward_length"]),
            vocabulary=max(tensors["token_embd.weight"]),
            context=int(metadata[f"{kind}.context_length"]),
            tied="output.weight" not in tensors,
            qkv_bias="blk.0.attn_q.bias" in tensors,
            qk_norm="blk.0.attn_q_norm.weight" in tensors,
            source=source,
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InvalidInput(f"{source} is incomplete: {type(error).__name__} {error}") from None


def _check(kind: str, config: Mapping[str, Any], source: str) -> None:
    if kind not in FAMILIES:
        raise InvalidInput(
            f"{source}: the sizes of a {kind!r} model are not understood",
            fix=f"one of: {', '.join(FAMILIES)}",
        )
    if config.get("num_local_experts") or config.get("num_experts"):
        raise InvalidInput(f"{source}: a mixture of experts is not reckoned", fix="name a dense model")


def _gguf(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise PlatformError(
            "a GGUF file needs the gguf package", fix="pip install 'manta[platform]'"
        ) from None
    try:
        reader = GGUFReader(path)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise InvalidInput(f"cannot read {path}: {error}", fix="get the file again") from None
    # The vocabulary is in there too; its entries are left alone.
    wanted = {key: field for key, field in reader.fields.items() if not key.startswith("tokenizer.")}
    metadata = {key: field.contents() for key, field in wanted.items()}
    return metadata, {each.name: tuple(int(size) for size in each.shape) for each in reader.tensors}
