"""A model with what belongs to it: tokenizer, chat template, end tokens; loaded from either format."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from manta.errors import ModelLoadError
from serve_app.engine.chat_template import ChatTemplate
from serve_app.engine.checkpoint import GgufCheckpoint, SafetensorsCheckpoint, open_checkpoint, read_json
from serve_app.engine.loader import choose_device, choose_dtype, load_model
from serve_app.engine.model import LanguageModel
from serve_app.engine.tokenizer import Tokenizer, tokenizer_from_file, tokenizer_from_gguf
from serve_app.engine.types import EngineConfig

_GGUF_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")


@dataclass(frozen=True, slots=True)
class ModelBundle:
    """`template` is None for a model that was not trained on chats. `context` is in tokens."""

    name: str
    model: LanguageModel
    tokenizer: Tokenizer
    template: ChatTemplate | None
    end_ids: frozenset[int]
    context: int


def load_bundle(path: Path, config: EngineConfig) -> ModelBundle:
    """Load everything at `path` (a .gguf file or a model folder). Raises ModelLoadError, InvalidConfig."""
    checkpoint = open_checkpoint(path)
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device, config.quantize)
    context = min(config.context_window or checkpoint.spec.context, checkpoint.spec.context)
    name, tokenizer, template, ends = _parts(checkpoint)
    if tokenizer.vocab_size > checkpoint.spec.vocab_size:
        raise ModelLoadError(
            f"the tokenizer knows {tokenizer.vocab_size} tokens, the model {checkpoint.spec.vocab_size}",
            fix="the tokenizer belongs to another model",
        )
    try:
        model = load_model(checkpoint, dtype, device, context, config.quantize, config.cuda_graphs)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelLoadError(
            f"{path} does not fit in memory", fix="use a smaller model or bfloat16"
        ) from error
    return ModelBundle(name, model, tokenizer, template, ends, context)


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer alone. Raises ModelLoadError."""
    return _parts(open_checkpoint(path))[1]


_Parts = tuple[str, Tokenizer, ChatTemplate | None, frozenset[int]]


def _parts(checkpoint: GgufCheckpoint | SafetensorsCheckpoint) -> _Parts:
    if isinstance(checkpoint, GgufCheckpoint):
        return _from_gguf(checkpoint)
    return _from_folder(checkpoint)


def _from_gguf(checkpoint: GgufCheckpoint) -> _Parts:
    metadata = checkpoint.file.metadata
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    special: dict[str, str] = {}
    for ours, theirs in (
        ("bos_token", "bos"),
        ("eos_token", "eos"),
        ("unk_token", "unknown"),
        ("pad_token", "padding"),
    ):
        index = metadata.get(f"tokenizer.ggml.{theirs}_token_id")
        if index is not None and 0 <= index < len(tokens):
            special[ours] = tokens[index]
    source = metadata.get("tokenizer.chat_template")
    found = (metadata.get(f"tokenizer.ggml.{name}") for name in _GGUF_ENDS)
    ends = frozenset(int(index) for index in found if index is not None)
    template = ChatTemplate(str(source), special) if source else None
    name = str(metadata.get("general.name") or checkpoint.file.path.stem)
    return name, tokenizer_from_gguf(metadata), template, ends


def _from_folder(checkpoint: SafetensorsCheckpoint) -> _Parts:
    folder = checkpoint.folder
    tokenizer = tokenizer_from_file(folder / "tokenizer.json")
    settings = _optional_json(folder / "tokenizer_config.json")
    special = {
        key: text
        for key in ("bos_token", "eos_token", "unk_token", "pad_token")
        if (text := _token_text(settings.get(key))) is not None
    }
    source = _template_source(folder, settings)
    template = ChatTemplate(source, special) if source else None
    generation = _optional_json(folder / "generation_config.json")
    ends = _ids(generation.get("eos_token_id")) or _ids(checkpoint.config.get("eos_token_id"))
    # Chat models sometimes declare only the end of the text there, and the end of a turn here.
    turn_end = tokenizer.id_of(special["eos_token"]) if template and "eos_token" in special else None
    if turn_end is not None:
        ends |= {turn_end}
    return folder.resolve().name, tokenizer, template, ends


def _optional_json(path: Path) -> Mapping[str, Any]:
    return read_json(path) if path.exists() else {}


def _token_text(value: Any) -> str | None:
    """Tokenizer settings hold a token as text, or as an object with its `content`."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _template_source(folder: Path, settings: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    source = settings.get("chat_template")
    if isinstance(source, list):
        named = {entry["name"]: entry["template"] for entry in source}
        source = named.get("default")
    return source if isinstance(source, str) else None


def _ids(value: Any) -> frozenset[int]:
    if value is None:
        return frozenset()
    return frozenset(int(index) for index in value) if isinstance(value, list) else frozenset({int(value)})
