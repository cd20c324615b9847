"""Builds a model from a checkpoint: fused weights in the wanted type, tensor by tensor.

Each tensor is read, cast into its place and dropped, so the peak is the model plus one tensor.
"""

import torch

from manta.errors import InvalidConfig, ModelLoadError
from serve_app.engine.checkpoint import Checkpoint
from serve_app.engine.model import LayerWeights, Linear, ModelWeights, Transformer
from serve_app.engine.rope import rope_table


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU when there is one. Raises InvalidConfig for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InvalidConfig(f"device {name!r} is not available", fix="set device to cpu or auto")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise InvalidConfig(f"unknown device {name!r}", fix="use auto, cpu or cuda") from error


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 only where it is native: emulated it is slower than float32."""
    known = {
        "float32": torch.float32,
        "fp32": torch.float32,
        "bfloat16": torch.bfloat16,
        "bf16": torch.bfloat16,
    }
    if name in known:
        return known[name]
    if name != "auto":
        raise InvalidConfig(f"unknown dtype {name!r}", fix="use auto, float32 or bfloat16")
    return torch.bfloat16 if native_bfloat16(device) else torch.float32


def native_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, check, bool)()) for check in checks)


def load_model(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, context: int) -> Transformer:
    """Read all weights. `context` bounds the positions. Raises ModelLoadError for a tensor that misfits."""
    assembly = _Assembly(checkpoint, dtype, device)
    spec = checkpoint.spec
    embedding = assembly.stack([("model.embed_tokens.weight", spec.vocab_size)], spec.hidden)
    head = embedding if spec.tied else assembly.stack([("lm_head.weight", spec.vocab_size)], spec.hidden)
    factors = checkpoint.read("rope_freqs.weight") if checkpoint.has("rope_freqs.weight") else None
    weights = ModelWeights(
        embedding=embedding,
        layers=tuple(assembly.layer(index) for index in range(spec.layers)),
        norm=assembly.vector("model.norm.weight", spec.hidden),
        head=head,
        rope=rope_table(spec, context, factors).to(device),
    )
    return Transformer(spec, weights)


class _Assembly:
    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> None:
        self.checkpoint = checkpoint
        self.dtype = dtype
        self.device = device

    def stack(self, parts: list[tuple[str, int]], width: int) -> torch.Tensor:
        """The named matrices one above the other, [sum of rows, width]."""
        rows = sum(count for _, count in parts)
        whole = torch.empty(rows, width, dtype=self.dtype, device=self.device)
        self._fill(whole, parts)
        return whole

    def vector(self, name: str, size: int) -> torch.Tensor:
        """A norm's weights, always float32."""
        whole = torch.empty(size, dtype=torch.float32, device=self.device)
        self._fill(whole, [(name, size)])
        return whole

    def _fill(self, whole: torch.Tensor, parts: list[tuple[str, int]]) -> None:
        row = 0
        for name, count in parts:
            tensor = self.checkpoint.read(name)
            place = whole[row : row + count]
            if tensor.shape != place.shape:
                found, wanted = tuple(tensor.shape), tuple(place.shape)
                raise ModelLoadError(f"tensor {name} is {found}, not {wanted}", fix="get the files again")
            place.copy_(tensor)
            row += count

    def linear(self, prefix: str, names: tuple[tuple[str, int], ...], width: int, bias: bool) -> Linear:
        weight = self.stack([(f"{prefix}{name}.weight", rows) for name, rows in names], width)
        if not bias:
            return Linear(weight, None)
        whole = torch.empty(weight.shape[0], dtype=self.dtype, device=self.device)
        self._fill(whole, [(f"{prefix}{name}.bias", rows) for name, rows in names])
        return Linear(weight, whole)

    def layer(self, index: int) -> LayerWeights:
        spec = self.checkpoint.spec
        block = f"model.layers.{index}."
        attention, mlp = f"{block}self_attn.", f"{block}mlp."
        q_rows, kv_rows = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        qkv = (("q_proj", q_rows), ("k_proj", kv_rows), ("v_proj", kv_rows))
        gate_up = (("gate_proj", spec.feed_forward), ("up_proj", spec.feed_forward))
        return LayerWeights(
            input_norm=self.vector(f"{block}input_layernorm.weight", spec.hidden),
            qkv=self.linear(attention, qkv, spec.hidden, spec.qkv_bias),
            q_norm=self.vector(f"{attention}q_norm.weight", spec.head_dim) if spec.qk_norm else None,
            k_norm=self.vector(f"{attention}k_norm.weight", spec.head_dim) if spec.qk_norm else None,
            output=self.linear(attention, (("o_proj", spec.hidden),), q_rows, spec.output_bias),
            post_norm=self.vector(f"{block}post_attention_layernorm.weight", spec.hidden),
            gate_up=self.linear(mlp, gate_up, spec.hidden, spec.mlp_bias),
            down=self.linear(mlp, (("down_proj", spec.hidden),), spec.feed_forward, spec.mlp_bias),
        )
