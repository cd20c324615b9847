"""Model files of either format seen as one thing: a spec and tensors under Hugging Face's names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from manta.errors import ModelLoadError
from serve_app.engine.gguf_file import GgufFile
from serve_app.engine.spec import ModelSpec, spec_from_gguf, spec_from_hf

_FIX = "get the file again"

_GGUF_LAYER = {
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
_GGUF_TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "rope_freqs.weight": "rope_freqs.weight",
}


class Checkpoint(Protocol):
    spec: ModelSpec

    def has(self, name: str) -> bool: ...

    def read(self, name: str) -> torch.Tensor:
        """One tensor, by its Hugging Face name. Raises ModelLoadError when it is missing or unreadable."""
        ...


class GgufCheckpoint:
    """Tensors of a GGUF file, dequantised as they are asked for."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self.spec = spec_from_gguf(file.metadata, file.tensors)

    def has(self, name: str) -> bool:
        return _gguf_name(name) in self.file.tensors

    def read(self, name: str) -> torch.Tensor:
        inside = _gguf_name(name)
        if inside not in self.file.tensors:
            raise ModelLoadError(f"{self.file.path} has no tensor {inside}", fix=_FIX)
        values = self.file.read(inside)
        # What is not quantised comes as a read-only view of the mapped file, which torch must not be handed.
        tensor = torch.from_numpy(values if values.flags.writeable else values.copy())
        if self.spec.architecture in ("llama", "mistral") and ".self_attn." in name:
            if ".q_proj." in name:
                return _rotate_halves(tensor, self.spec.heads)
            if ".k_proj." in name:
                return _rotate_halves(tensor, self.spec.kv_heads)
        return tensor


def _gguf_name(name: str) -> str:
    if name in _GGUF_TOP:
        return _GGUF_TOP[name]
    _, _, layer, rest = name.split(".", 3)
    stem, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{_GGUF_LAYER[stem]}.{kind}"


def _rotate_halves(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """GGUF stores the llama family's q and k rows with each rotary pair side by side; we rotate halves."""
    rows = tensor.shape[0]
    return tensor.reshape(heads, rows // heads // 2, 2, -1).transpose(1, 2).reshape(tensor.shape)


class SafetensorsCheckpoint:
    """Tensors of a model folder: `model.safetensors`, or shards with `model.safetensors.index.json`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_json(folder / "config.json")
        self.spec = spec_from_hf(self.config)
        self._where = self._find_tensors()
        self._open: dict[str, Any] = {}

    def _find_tensors(self) -> Mapping[str, str]:
        index = self.folder / "model.safetensors.index.json"
        if index.exists():
            where = read_json(index).get("weight_map")
            if not isinstance(where, dict):
                raise ModelLoadError(f"{index} has no weight_map", fix=_FIX)
            return where
        single = self.folder / "model.safetensors"
        if not single.exists():
            raise ModelLoadError(f"{self.folder} holds no model.safetensors", fix="check the path")
        with open_safetensors(single) as file:
            return dict.fromkeys(file.keys(), single.name)

    def names(self) -> list[str]:
        return sorted(self._where)

    def has(self, name: str) -> bool:
        return name in self._where

    def read(self, name: str) -> torch.Tensor:
        shard = self._where.get(name)
        if shard is None:
            raise ModelLoadError(f"{self.folder} has no tensor {name}", fix=_FIX)
        if shard not in self._open:
            self._open[shard] = open_safetensors(self.folder / Path(shard).name)
        try:
            tensor = self._open[shard].get_tensor(name)
        except SafetensorError as error:
            raise ModelLoadError(f"{self.folder / shard}: {error}", fix=_FIX) from error
        assert isinstance(tensor, torch.Tensor)
        return tensor


def open_safetensors(path: Path) -> Any:
    """Open a safetensors file for torch. Raises ModelLoadError when it is missing or broken."""
    try:
        return safe_open(str(path), framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise ModelLoadError(f"{path} is not a whole safetensors file: {error}", fix=_FIX) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ModelLoadError when it is missing or something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"cannot read {path}: {error}", fix="check the path") from error
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path} is not a JSON object", fix=_FIX)
    return value


def open_checkpoint(path: Path) -> GgufCheckpoint | SafetensorsCheckpoint:
    """Open a `.gguf` file, or a folder with `config.json` and safetensors (or with one `.gguf`)."""
    if not path.exists():
        raise ModelLoadError(f"no model at {path}", fix="check the path")
    if path.is_file():
        return GgufCheckpoint(GgufFile(path))
    if (path / "config.json").exists():
        return SafetensorsCheckpoint(path)
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1:
        return GgufCheckpoint(GgufFile(files[0]))
    raise ModelLoadError(f"{path} holds neither config.json nor one .gguf file", fix="name the file itself")
