"""The forward pass of the Llama and Qwen families over a ragged batch with a KV cache."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
import torch.nn.functional as F

from serve_app.engine.attention import (
    decode_attention,
    gathered,
    lay_out_decode,
    lay_out_paged,
    paged_attention,
    prompt_attention,
)
from serve_app.engine.batch import Segment
from serve_app.engine.kv_cache import KvCache
from serve_app.engine.layers import LayerWeights, ModelWeights
from serve_app.engine.native.step import NativeStep
from serve_app.engine.recorded import RecordedSteps, Recorder
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

Attend: TypeAlias = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""By the number of a layer: what queries [rows, heads, d] find, their rows' own keys and values given and in the
cache; [rows, heads * d].
"""


@dataclass(frozen=True, slots=True)
class _Prompt:
    """Several tokens of one request in the batch. `pages` is None where they are its first: nothing is read."""

    rows: slice
    position: int
    pages: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class _Tokens:
    """A batch's tokens, one a row, as tensors [rows]. `places`: what `KvCache.rows` says of where they are kept."""

    ids: torch.Tensor
    positions: torch.Tensor
    cache: KvCache
    places: torch.Tensor


class Transformer:
    """A decoder-only model in evaluation. Not thread-safe; the engine's thread owns it.

    With bfloat16 weights the sums between layers, norms and rotations stay in float32: they cost little, and
    rounding there is what turns first choices. `dtype` is that of products and of the KV memory. `native` does
    all steps where it is there; `recorder` records those of one token a request.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: ModelWeights,
        dtype: torch.dtype,
        native: NativeStep | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.spec = spec
        self.weights = weights
        self.device = weights.norm.device
        self.dtype = dtype
        self.native = native
        self.recorded = None if recorder is None else RecordedSteps(self._decode, recorder, self.device)
        self.rows_are_alike = native is not None

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment], cache: KvCache) -> torch.Tensor:
        """See LanguageModel. Rows of the result follow the order of the segments that want logits."""
        if self.native is not None:
            return self.native.forward(segments, cache)
        logits = None if self.recorded is None else self.recorded.logits(segments, cache)
        return self._plain(segments, cache) if logits is None else logits

    def _plain(self, segments: Sequence[Segment], cache: KvCache) -> torch.Tensor:
        # Requests of one row are decoded together, in the order of their pages.
        order = sorted(
            range(len(segments)), key=lambda i: (len(segments[i].tokens) > 1, segments[i].pages[0])
        )
        ordered = [segments[index] for index in order]
        hidden = self._states(self._tokens(ordered, cache), self._attention(ordered, cache))
        return self._logits(hidden[wanted_rows(segments, order, self.device)])

    def _decode(self, table: torch.Tensor, cache: KvCache) -> torch.Tensor:
        """The step of RecordedSteps."""
        ids, at, pages = table[:, 0], table[:, 1], table[:, 2:]
        layout = lay_out_paged(pages, at, self.spec.kv_heads, cache.page)
        current = pages.gather(1, (at // cache.page)[:, None])[:, 0]
        tokens = _Tokens(ids, at, cache, cache.rows(current, at % cache.page))

        def attend(index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return paged_attention(q, cache.keys[index], cache.values[index], layout)

        return self._logits(self._states(tokens, attend))

    def _tokens(self, segments: Sequence[Segment], cache: KvCache) -> _Tokens:
        ids = [token for segment in segments for token in segment.tokens]
        positions = [p for segment in segments for p in range(segment.position, segment.end)]
        pages = [
            segment.pages[p // cache.page]
            for segment in segments
            for p in range(segment.position, segment.end)
        ]
        at = torch.tensor(positions, device=self.device)
        places = cache.rows(torch.tensor(pages, device=self.device), at % cache.page)
        return _Tokens(torch.tensor(ids, device=self.device), at, cache, places)

    def _attention(self, segments: Sequence[Segment], cache: KvCache) -> Attend:
        """For rows of decoding requests first, then those of prompts."""
        decoding = [segment for segment in segments if len(segment.tokens) == 1]
        first = len(decoding)
        layout = lay_out_decode(decoding, cache.keys[0]) if decoding else None
        prompts = tuple(self._prompts(segments[first:], first, cache.page))

        def attend(index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = cache.keys[index], cache.values[index]
            mixed = [] if layout is None else [decode_attention(q[:first], keys, values, layout)]
            for prompt in prompts:
                rows = prompt.rows
                if prompt.pages is None:
                    mixed.append(prompt_attention(q[rows], k[rows], v[rows], 0))
                else:
                    end = prompt.position + rows.stop - rows.start
                    seen_k, seen_v = (gathered(memory, prompt.pages)[:end] for memory in (keys, values))
                    mixed.append(prompt_attention(q[rows], seen_k, seen_v, prompt.position))
            return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

        return attend

    def _prompts(self, segments: Sequence[Segment], row: int, page: int) -> Iterator[_Prompt]:
        for segment in segments:
            rows = slice(row, row + len(segment.tokens))
            pages = segment.filled(page) if segment.position else None
            yield _Prompt(
                rows, segment.position, None if pages is None else torch.tensor(pages, device=self.device)
            )
            row = rows.stop

    def _states(self, tokens: _Tokens, attend: Attend) -> torch.Tensor:
        """float32 [rows, hidden] behind the last layer; the tokens' keys and values are in the cache then."""
        turns = self.weights.turns[tokens.positions][:, None]
        hidden = self.weights.embedding(tokens.ids).float()
        for index, layer in enumerate(self.weights.layers):
            q, k, v = self._keep(layer, index, hidden, turns, tokens)
            hidden = hidden.add_(layer.output(attend(index, q, k, v)))
            gate, up = layer.gate_up(self._norm(hidden, layer.post_norm)).chunk(2, dim=-1)
            hidden = hidden.add_(layer.down((F.silu(gate.float()).mul_(up)).to(self.dtype)))
        return hidden

    def _keep(
        self, layer: LayerWeights, index: int, hidden: torch.Tensor, turns: torch.Tensor, tokens: _Tokens
    ) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values of the tokens, [rows, heads, d] each; the last two are kept in the cache."""
        spec = self.spec
        fused = layer.qkv(self._norm(hidden, layer.input_norm))
        heads = fused.view(len(hidden), spec.heads + 2 * spec.kv_heads, spec.head_dim)
        self._rotate(heads, layer, turns)
        tokens.cache.write(index, tokens.places, heads[:, spec.heads :])
        return torch.split(heads, [spec.heads, spec.kv_heads, spec.kv_heads], dim=1)

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
        if exact is not turned:
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
