"""Builds a model from a checkpoint: fused weights in the wanted type, tensor by tensor.

Each tensor is read, cast into its place and dropped, so the peak is the model plus one tensor.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from manta.errors import InvalidConfig, ModelLoadError
from serve_app.engine.checkpoint import Checkpoint
from serve_app.engine.cuda_graphs import CudaGraphs
from serve_app.engine.heap import give_back
from serve_app.engine.layers import LayerWeights, ModelWeights, Table
from serve_app.engine.linear import (
    Float16Linear,
    Int4Linear,
    Int8Linear,
    Linear,
    LinearKind,
    Product,
    fits_int4,
)
from serve_app.engine.model import Transformer
from serve_app.engine.native.build import library
from serve_app.engine.native.product import NativeInt8Linear, NativeLinear, fits_float32, fits_int8
from serve_app.engine.native.step import NativeStep, all_native
from serve_app.engine.recorded import Recorder
from serve_app.engine.rope import rope_table, side_by_side

_DTYPES = {
    "auto": None,
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
}
# What belongs to queries and keys, whose rows are reordered.
_TURNED = frozenset({"q_proj", "k_proj", "q_norm", "k_norm"})


@dataclass(frozen=True, slots=True)
class Kinds:
    """How products are stored: the last of attention and MLP (`outputs`), whose inputs vary most; the others
    (`inner`); the head.
    """

    outputs: LinearKind
    inner: LinearKind
    head: LinearKind


def choose_kinds(quantize: str) -> Kinds:
    """Raises InvalidConfig for a name that is not known."""
    match quantize:
        case "none":
            return Kinds(_plain, _plain, _plain)
        case "int8":
            return Kinds(_int8, _int8, _int8)
        case "int4":
            return Kinds(_int4, _int4, Int8Linear)
        case "mixed":
            return Kinds(Float16Linear, Int8Linear, Int8Linear)
    raise InvalidConfig(f"unknown quantize {quantize!r}", fix="use none, int8, int4 or mixed")


def _int4(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    return Int4Linear(weight, bias) if fits_int4(weight) else Int8Linear(weight, bias)


def _int8(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    kernels = library() if fits_int8(weight) else None
    return Int8Linear(weight, bias) if kernels is None else NativeInt8Linear(kernels, weight, bias)


def _plain(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    kernels = library() if fits_float32(weight) else None
    return Linear(weight, bias) if kernels is None else NativeLinear(kernels, weight, bias)


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


def choose_dtype(name: str, device: torch.device, quantize: str = "none") -> torch.dtype:
    """`auto` is bfloat16 only where it is native: emulated it is slower than float32.

    Quantised weights are computed with in float32, on the CPU. Raises InvalidConfig for anything else.
    """
    if name not in _DTYPES:
        raise InvalidConfig(f"unknown dtype {name!r}", fix="use auto, float32 or bfloat16")
    dtype = _DTYPES[name]
    if quantize == "none":
        return dtype or (torch.bfloat16 if native_bfloat16(device) else torch.float32)
    if device.type != "cpu" or dtype not in (None, torch.float32):
        raise InvalidConfig(
            f"weights cannot be quantised to {quantize} with dtype {name} on {device.type}",
            fix="set quantize to none, or device to cpu and dtype to auto",
        )
    return torch.float32


def native_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, check, bool)()) for check in checks)


def load_model(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: torch.device,
    context: int,
    quantize: str = "none",
    cuda_graphs: bool = True,
) -> Transformer:
    """Read all weights. `context` bounds the positions. Raises ModelLoadError for a tensor that misfits."""
    choose_attention(device)
    kinds = choose_kinds(quantize)
    assembly = _Assembly(checkpoint, dtype, device, kinds)
    spec = checkpoint.spec
    table = assembly.stack([("model.embed_tokens.weight", spec.vocab_size)], spec.hidden)
    scoring = table if spec.tied else assembly.stack([("lm_head.weight", spec.vocab_size)], spec.hidden)
    factors = checkpoint.read("rope_freqs.weight") if checkpoint.has("rope_freqs.weight") else None
    head = kinds.head(scoring, None)
    if quantize != "none":
        # The head has its own narrow copy; these rows are only looked up.
        table = table.half()
    exact = None if dtype == torch.float32 else scoring
    # The head's packed rows serve as the table too: it may be as large as all the layers.
    embedding: Table = partial(F.embedding, weight=table)
    if spec.tied and isinstance(head, NativeLinear):
        embedding = head.rows
    del table, scoring
    weights = ModelWeights(
        embedding=embedding,
        layers=tuple(assembly.layer(index) for index in range(spec.layers)),
        norm=assembly.vector("model.norm.weight", spec.hidden),
        head=head,
        scoring=exact,
        turns=rope_table(spec, context, factors).to(device),
    )
    # Packing leaves as much free memory behind as a few tensors take.
    give_back()
    kernels = library() if all_native(spec, weights) else None
    native = None if kernels is None else NativeStep(kernels, spec, weights)
    return Transformer(spec, weights, dtype, native, choose_recorder(device) if cuda_graphs else None)


def choose_recorder(device: torch.device) -> Recorder | None:
    return CudaGraphs(device) if device.type == "cuda" else None


def choose_attention(device: torch.device) -> None:
    """cuDNN's attention, which torch prefers on some GPUs, makes a plan for each new length: tenths of a second, for a
    prompt that takes milliseconds. Of the process as a whole.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


class _Assembly:
    def __init__(
        self, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, kinds: Kinds
    ) -> None:
        self.checkpoint = checkpoint
        self.dtype = dtype
        self.device = device
        self.kinds = kinds

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
            if name.split(".")[-2] in _TURNED:
                tensor = side_by_side(tensor, self.checkpoint.spec.head_dim)
            place.copy_(tensor)
            row += count

    def linear(
        self, kind: LinearKind, prefix: str, names: tuple[tuple[str, int], ...], width: int, bias: bool
    ) -> Product:
        weight = self.stack([(f"{prefix}{name}.weight", rows) for name, rows in names], width)
        if not bias:
            return kind(weight, None)
        whole = torch.empty(weight.shape[0], dtype=self.dtype, device=self.device)
        self._fill(whole, [(f"{prefix}{name}.bias", rows) for name, rows in names])
        return kind(weight, whole)

    def layer(self, index: int) -> LayerWeights:
        spec, kinds = self.checkpoint.spec, self.kinds
        block = f"model.layers.{index}."
        attention, mlp = f"{block}self_attn.", f"{block}mlp."
        q_rows, kv_rows = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        qkv = (("q_proj", q_rows), ("k_proj", kv_rows), ("v_proj", kv_rows))
        gate_up = (("gate_proj", spec.feed_forward), ("up_proj", spec.feed_forward))
        output, down = (("o_proj", spec.hidden),), (("down_proj", spec.hidden),)
        return LayerWeights(
            input_norm=self.vector(f"{block}input_layernorm.weight", spec.hidden),
            qkv=self.linear(kinds.inner, attention, qkv, spec.hidden, spec.qkv_bias),
            q_norm=self.vector(f"{attention}q_norm.weight", spec.head_dim) if spec.qk_norm else None,
            k_norm=self.vector(f"{attention}k_norm.weight", spec.head_dim) if spec.qk_norm else None,
            output=self.linear(kinds.outputs, attention, output, q_rows, spec.output_bias),
            post_norm=self.vector(f"{block}post_attention_layernorm.weight", spec.hidden),
            gate_up=self.linear(kinds.inner, mlp, gate_up, spec.hidden, spec.mlp_bias),
            down=self.linear(kinds.outputs, mlp, down, spec.feed_forward, spec.mlp_bias),
        )
