"""The forward pass of the Llama and Qwen families over a ragged batch with a KV cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from serve_app.engine.batch import Segment
from serve_app.engine.kv_cache import KvCache
from serve_app.engine.rope import rotate
from serve_app.engine.spec import ModelSpec


class LanguageModel(Protocol):
    """What the engine steps. `forward` fills the cache and returns float32 logits [wanted, vocabulary]."""

    spec: ModelSpec
    device: torch.device
    dtype: torch.dtype

    def forward(self, segments: Sequence[Segment], cache: KvCache) -> torch.Tensor: ...


_RESCORED = 8


@dataclass(frozen=True, slots=True)
class Linear:
    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        return F.linear(rows, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """`qkv` and `gate_up` are stacked, so that each is one product. Norms are float32 in every model."""

    input_norm: torch.Tensor
    qkv: Linear
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    output: Linear
    post_norm: torch.Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class ModelWeights:
    embedding: torch.Tensor
    layers: tuple[LayerWeights, ...]
    norm: torch.Tensor
    head: torch.Tensor
    rope: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Step:
    """A batch laid out as tensors: all segments' tokens in one row, one attention mask per segment."""

    segments: tuple[Segment, ...]
    places: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    masks: tuple[torch.Tensor | None, ...]


class Transformer:
    """A decoder-only model in evaluation. Not thread-safe; the engine's thread owns it.

    With bfloat16 weights the sums between layers, norms and rotations stay in float32: they cost little, and
    rounding there is what turns first choices.
    """

    def __init__(self, spec: ModelSpec, weights: ModelWeights) -> None:
        self.spec = spec
        self.weights = weights
        self.device = weights.embedding.device
        self.dtype = weights.embedding.dtype

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment], cache: KvCache) -> torch.Tensor:
        """See LanguageModel. Rows of the result follow the order of the segments that want logits."""
        step = self._lay_out(segments)
        ids = [token for segment in segments for token in segment.tokens]
        hidden = F.embedding(torch.tensor(ids, device=self.device), self.weights.embedding).float()
        for index, layer in enumerate(self.weights.layers):
            hidden = hidden + self._attend(layer, hidden, step, cache.keys[index], cache.values[index])
            gate, up = layer.gate_up(self._norm(hidden, layer.post_norm)).chunk(2, dim=-1)
            hidden = hidden + layer.down((F.silu(gate.float()) * up).to(self.dtype))
        return self._logits(hidden[_wanted_rows(segments, self.device)])

    def _lay_out(self, segments: Sequence[Segment]) -> _Step:
        positions = [p for segment in segments for p in range(segment.position, segment.end)]
        places = [segment.start + p for segment in segments for p in range(segment.position, segment.end)]
        angles = self.weights.rope[torch.tensor(positions, device=self.device)]
        return _Step(
            segments=tuple(segments),
            places=torch.tensor(places, device=self.device),
            cos=angles[:, None, 0],
            sin=angles[:, None, 1],
            masks=tuple(_causal_mask(segment, self.device) for segment in segments),
        )

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 logits. bfloat16 products tie among the best few, so those are computed again exactly."""
        last = self._norm_exact(hidden, self.weights.norm)
        logits = F.linear(last.to(self.dtype), self.weights.head).float()
        if self.dtype == torch.float32:
            return logits
        best = logits.topk(min(_RESCORED, logits.shape[-1]), dim=-1).indices
        exact = torch.einsum("nkh,nh->nk", self.weights.head[best].float(), last)
        return logits.scatter_(1, best, exact)

    def _norm(self, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return self._norm_exact(rows, weight).to(self.dtype)

    def _norm_exact(self, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(rows.float(), weight.shape, weight, self.spec.norm_eps)

    def _attend(
        self, layer: LayerWeights, hidden: torch.Tensor, step: _Step, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        spec = self.spec
        fused = layer.qkv(self._norm(hidden, layer.input_norm))
        heads = fused.view(len(hidden), spec.heads + 2 * spec.kv_heads, spec.head_dim)
        turned = spec.heads + spec.kv_heads
        q, k, v = heads[:, : spec.heads], heads[:, spec.heads : turned], heads[:, turned:]
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = self._norm_exact(q, layer.q_norm), self._norm_exact(k, layer.k_norm)
            q, k = rotate(q, step.cos, step.sin), rotate(k, step.cos, step.sin)
            q, k = q.to(self.dtype), k.to(self.dtype)
        else:
            rotated = rotate(heads[:, :turned], step.cos, step.sin).to(self.dtype)
            q, k = rotated[:, : spec.heads], rotated[:, spec.heads :]
        keys.index_copy_(1, step.places, k.transpose(0, 1))
        values.index_copy_(1, step.places, v.transpose(0, 1))
        mixed = torch.empty_like(q)
        row = 0
        for segment, mask in zip(step.segments, step.masks, strict=True):
            rows = slice(row, row + len(segment.tokens))
            stretch = slice(segment.start, segment.start + segment.end)
            mixed[rows] = _attention(q[rows], keys[:, stretch], values[:, stretch], mask, segment.position)
            row = rows.stop
        return layer.output(mixed.flatten(1))


def _attention(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, position: int
) -> torch.Tensor:
    """q [tokens, heads, d] over keys, values [kv_heads, length, d]; grouped heads share keys uncopied."""
    count, heads, width = q.shape
    kv_heads = keys.shape[0]
    group = heads // kv_heads
    if count == 1:
        # One query sees everything: the heads of a group can stand as rows of one attention.
        mixed = F.scaled_dot_product_attention(q.view(1, kv_heads, group, width), keys[None], values[None])
        return mixed.view(1, heads, width)
    grouped = q.view(count, kv_heads, group, width).permute(1, 2, 0, 3)
    shape = (kv_heads, group, keys.shape[1], width)
    mixed = F.scaled_dot_product_attention(
        grouped,
        keys[:, None].expand(shape),
        values[:, None].expand(shape),
        attn_mask=mask,
        is_causal=position == 0,
    )
    return mixed.permute(2, 0, 1, 3).reshape(count, heads, width)


def _causal_mask(segment: Segment, device: torch.device) -> torch.Tensor | None:
    """Needed only for a later chunk of a prompt; torch's own causal mask starts at the first token."""
    count = len(segment.tokens)
    if count == 1 or segment.position == 0:
        return None
    seen = torch.arange(segment.end, device=device)
    own = torch.arange(segment.position, segment.end, device=device)
    return seen[None, :] <= own[:, None]


def _wanted_rows(segments: Sequence[Segment], device: torch.device) -> torch.Tensor:
    rows: list[int] = []
    total = 0
    for segment in segments:
        total += len(segment.tokens)
        if segment.wants_logits:
            rows.append(total - 1)
    return torch.tensor(rows, dtype=torch.int64, device=device)
