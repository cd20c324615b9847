"""The forward pass of the Llama and Qwen families over a ragged batch with a KV cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from serve_app.engine.attention import (
    DecodeLayout,
    decode_attention,
    gathered,
    lay_out_decode,
    prompt_attention,
)
from serve_app.engine.batch import Segment
from serve_app.engine.kv_cache import KvCache
from serve_app.engine.layers import LayerWeights, ModelWeights
from serve_app.engine.native.step import NativeStep
from serve_app.engine.rows import wanted_rows
from serve_app.engine.spec import ModelSpec


class LanguageModel(Protocol):
    """What the engine steps. `forward` fills the cache and returns float32 logits [wanted, vocabulary]."""

    spec: ModelSpec
    device: torch.device
    dtype: torch.dtype
    rows_are_alike: bool
    """Whether a token has the same logits, to the bit, whatever is computed beside it."""

    def forward(self, segments: Sequence[Segment], cache: KvCache) -> torch.Tensor: ...


_RESCORED = 8


@dataclass(frozen=True, slots=True)
class _Prompt:
    """Several tokens of one request in the batch. `pages` is None where they are its first: nothing is read."""

    rows: slice
    position: int
    pages: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class _Step:
    """A batch laid out as tensors: the rows of decoding requests first, then those of prompts."""

    turns: torch.Tensor
    cache: KvCache
    cache_rows: torch.Tensor
    decoding: int
    decode: DecodeLayout | None
    prompts: tuple[_Prompt, ...]


class Transformer:
    """A decoder-only model in evaluation. Not thread-safe; the engine's thread owns it.

    With bfloat16 weights the sums between layers, norms and rotations stay in float32: they cost little, and
    rounding there is what turns first choices. `dtype` is that of products and of the KV memory. `native` does
    all steps where it is there.
    """

    def __init__(
        self, spec: ModelSpec, weights: ModelWeights, dtype: torch.dtype, native: NativeStep | None = None
    ) -> None:
        self.spec = spec
        self.weights = weights
        self.device = weights.norm.device
        self.dtype = dtype
        self.native = native
        self.rows_are_alike = native is not None

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment], cache: KvCache) -> torch.Tensor:
        """See LanguageModel. Rows of the result follow the order of the segments that want logits."""
        return self._plain(segments, cache) if self.native is None else self.native.forward(segments, cache)

    def _plain(self, segments: Sequence[Segment], cache: KvCache) -> torch.Tensor:
        # Requests of one row are decoded together, in the order of their pages.
        order = sorted(
            range(len(segments)), key=lambda i: (len(segments[i].tokens) > 1, segments[i].pages[0])
        )
        ordered = [segments[index] for index in order]
        step = self._lay_out(ordered, cache)
        ids = [token for segment in ordered for token in segment.tokens]
        hidden = self.weights.embedding(torch.tensor(ids, device=self.device)).float()
        for index, layer in enumerate(self.weights.layers):
            hidden = self._attend(layer, index, hidden, step)
            gate, up = layer.gate_up(self._norm(hidden, layer.post_norm)).chunk(2, dim=-1)
            hidden = hidden.add_(layer.down((F.silu(gate.float()).mul_(up)).to(self.dtype)))
        return self._logits(hidden[wanted_rows(segments, order, self.device)])

    def _lay_out(self, segments: Sequence[Segment], cache: KvCache) -> _Step:
        positions = [p for segment in segments for p in range(segment.position, segment.end)]
        pages = [
            segment.pages[p // cache.page]
            for segment in segments
            for p in range(segment.position, segment.end)
        ]
        at = torch.tensor(positions, device=self.device)
        decoding = [segment for segment in segments if len(segment.tokens) == 1]
        return _Step(
            turns=self.weights.turns[at][:, None],
            cache=cache,
            cache_rows=cache.rows(torch.tensor(pages, device=self.device), at % cache.page),
            decoding=len(decoding),
            decode=lay_out_decode(decoding, cache.keys[0]) if decoding else None,
            prompts=tuple(self._prompts(segments[len(decoding) :], len(decoding), cache.page)),
        )

    def _prompts(self, segments: Sequence[Segment], row: int, page: int) -> Iterator[_Prompt]:
        for segment in segments:
            rows = slice(row, row + len(segment.tokens))
            pages = segment.pages[: -(-segment.end // page)] if segment.position else None
            yield _Prompt(
                rows, segment.position, None if pages is None else torch.tensor(pages, device=self.device)
            )
            row = rows.stop

    def _attend(self, layer: LayerWeights, index: int, hidden: torch.Tensor, step: _Step) -> torch.Tensor:
        """The sum of `hidden` and what its rows find in the tokens before them."""
        spec, cache = self.spec, step.cache
        fused = layer.qkv(self._norm(hidden, layer.input_norm))
        heads = fused.view(len(hidden), spec.heads + 2 * spec.kv_heads, spec.head_dim)
        self._rotate(heads, layer, step.turns)
        cache.write(index, step.cache_rows, heads[:, spec.heads :])
        q, k, v = torch.split(heads, [spec.heads, spec.kv_heads, spec.kv_heads], dim=1)
        keys, values = cache.keys[index], cache.values[index]
        mixed = []
        if step.decode is not None:
            mixed.append(decode_attention(q[: step.decoding], keys, values, step.decode))
        for prompt in step.prompts:
            rows = prompt.rows
            if prompt.pages is None:
                mixed.append(prompt_attention(q[rows], k[rows], v[rows], 0))
            else:
                end = prompt.position + rows.stop - rows.start
                seen_k, seen_v = gathered(keys, prompt.pages)[:end], gathered(values, prompt.pages)[:end]
                mixed.append(prompt_attention(q[rows], seen_k, seen_v, prompt.position))
        return hidden.add_(layer.output(mixed[0] if len(mixed) == 1 else torch.cat(mixed)))

    def _rotate(self, heads: torch.Tensor, layer: LayerWeights, turns: torch.Tensor) -> None:
        """Turn queries and keys in place. The two halves of a rotary pair lie side by side (see the loader)."""
        spec = self.spec
        turned = heads[:, : spec.heads + spec.kv_heads]
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = turned[:, : spec.heads], turned[:, spec.heads :]
            exact = torch.cat((self._norm_exact(q, layer.q_norm), self._norm_exact(k, layer.k_norm)), dim=1)
        else:
            exact = turned.float()
        torch.view_as_complex(exact.view(*exact.shape[:2], -1, 2)).mul_(turns)
        if exact.data_ptr() != turned.data_ptr():
            turned.copy_(exact)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 logits. bfloat16 products tie among the best few, so those are computed again exactly."""
        last = self._norm_exact(hidden, self.weights.norm)
        logits = self.weights.head(last.to(self.dtype)).float()
        scoring = self.weights.scoring
        if scoring is None:
            return logits
        best = logits.topk(min(_RESCORED, logits.shape[-1]), dim=-1).indices
        exact = torch.einsum("nkh,nh->nk", scoring[best].float(), last)
        return logits.scatter_(1, best, exact)

    def _norm(self, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return self._norm_exact(rows, weight).to(self.dtype)

    def _norm_exact(self, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """As F.rms_norm, which is twice as many calls."""
        rows = rows.float()
        length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        # Squares are summed before the mean is taken, as in the reference.
        scale = length.square_().div_(rows.shape[-1]).add_(self.spec.norm_eps).rsqrt_()
        return (rows * scale).mul_(weight)
