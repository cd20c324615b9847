"""All layers of a small batch in one call of compiled code."""

from collections.abc import Sequence
from ctypes import CDLL, byref, c_void_p

import torch

from serve_app.engine.batch import Segment
from serve_app.engine.kv_cache import KvCache
from serve_app.engine.layers import LayerWeights, ModelWeights
from serve_app.engine.linear import Product
from serve_app.engine.native.product import NativeInt8Linear, NativeLinear
from serve_app.engine.native.shapes import CCache, CLayer, CModel, CProduct, CScratch, CStep, address
from serve_app.engine.rows import wanted_rows
from serve_app.engine.spec import ModelSpec

MOST_ROWS = 576
_MOST_LOOKS = 1 << 17
"""Tokens of prompts times the positions they look at: beyond, torch's attention over a whole prompt is faster."""

_FEW_ROWS = 4
"""`kFewRows` of the kernels."""


class NativeStep:
    """What Transformer.forward computes, for weights that are `all_native`. One thread's at a time."""

    def __init__(self, library: CDLL, spec: ModelSpec, weights: ModelWeights) -> None:
        self._library = library
        self._spec = spec
        self._weights = weights
        self._turns = torch.view_as_real(weights.turns).contiguous()
        self._layers = (CLayer * spec.layers)(*(_layer(layer) for layer in weights.layers))
        self._model = CModel(
            self._layers,
            address(weights.norm),
            _shape(weights.head),
            address(self._turns),
            spec.layers,
            spec.hidden,
            spec.heads,
            spec.kv_heads,
            spec.head_dim,
            spec.feed_forward,
            spec.norm_eps,
        )
        self._memory: tuple[KvCache, CCache] | None = None
        self._scratch: _Scratch | None = None

    @staticmethod
    def suits(segment: Segment) -> bool:
        """Whether this is the faster way for a segment, whatever is beside it, and has room for it."""
        known = len(segment.tokens) - len(segment.guessed)
        return known == 1 or (known <= MOST_ROWS and known * segment.end <= _MOST_LOOKS)

    @classmethod
    def groups(cls, segments: Sequence[Segment]) -> list[list[int]]:
        """Indices of the segments that suit, as many together as there is room for."""
        groups: list[list[int]] = []
        rows = MOST_ROWS
        for index, segment in enumerate(segments):
            if cls.suits(segment):
                rows += len(segment.tokens)
                if rows > MOST_ROWS:
                    groups.append([])
                    rows = len(segment.tokens)
                groups[-1].append(index)
        return groups

    def forward(self, segments: Sequence[Segment], cache: KvCache) -> torch.Tensor:
        """float32 logits [wanted, vocabulary], in the order of the segments that want them."""
        ids = torch.tensor([token for segment in segments for token in segment.tokens])
        hidden = self._weights.embedding(ids).float().contiguous()
        positions = torch.tensor([at for s in segments for at in range(s.position, s.end)])
        pages = _page_table(segments)
        wanted = wanted_rows(segments, range(len(segments)), ids.device)
        step = CStep(
            len(ids),
            address(positions),
            address(pages),
            pages.shape[1],
            address(wanted),
            len(wanted),
            len(ids) == len(segments),
        )
        last = torch.empty(len(wanted), self._spec.hidden)
        logits = torch.empty(len(wanted), self._spec.vocab_size)
        room = self._room(max(segment.end for segment in segments))
        parts = (byref(self._model), byref(self._places(cache)), byref(step), byref(room.shape))
        tensors = (c_void_p(address(tensor)) for tensor in (hidden, last, logits))
        self._library.run_step(*parts, *tensors)
        return logits

    def _places(self, cache: KvCache) -> CCache:
        if self._memory is None or self._memory[0] is not cache:
            several = c_void_p * self._spec.layers
            keys = several(*(address(tensor) for tensor in cache.keys))
            values = several(*(address(tensor) for tensor in cache.values))
            self._memory = cache, CCache(keys, values, cache.page)
        return self._memory[1]

    def _room(self, longest: int) -> "_Scratch":
        threads = torch.get_num_threads()
        if self._scratch is None or not self._scratch.serves(threads, longest):
            # Twice as much, so that a growing request does not ask again at each step.
            number = torch.float32 if isinstance(self._weights.head, NativeLinear) else torch.int16
            self._scratch = _Scratch(self._spec, threads, 2 * longest, number)
        return self._scratch


class _Scratch:
    """Room for what a step computes on its way. `number`: what products take."""

    def __init__(self, spec: ModelSpec, threads: int, longest: int, number: torch.dtype) -> None:
        queries = spec.heads * spec.head_dim
        qkv = queries + 2 * spec.kv_heads * spec.head_dim
        widest = max(spec.hidden, queries, spec.feed_forward)
        ready = max(MOST_ROWS, _FEW_ROWS * threads)
        self._threads = threads
        self._tensors = (
            torch.empty(ready, widest, dtype=number),
            torch.empty(ready),
            torch.empty(threads, widest),
            torch.empty(MOST_ROWS, max(qkv, 2 * spec.feed_forward, spec.hidden)),
            torch.empty(MOST_ROWS, queries),
            torch.empty(threads, spec.heads // spec.kv_heads, longest),
        )
        self.shape = CScratch(*(address(tensor) for tensor in self._tensors), longest, widest)

    def serves(self, threads: int, longest: int) -> bool:
        return threads <= self._threads and longest <= self.shape.longest


def all_native(weights: ModelWeights) -> bool:
    """Whether the compiled step knows every product."""
    products = [weights.head]
    for layer in weights.layers:
        products += [layer.qkv, layer.output, layer.gate_up, layer.down]
    kinds = (NativeLinear, NativeInt8Linear)
    return any(all(isinstance(product, kind) for product in products) for kind in kinds)


def _shape(product: Product) -> CProduct:
    if not isinstance(product, NativeInt8Linear | NativeLinear):
        raise TypeError("the compiled step takes products of its own kind only")
    return product.shape


def _layer(layer: LayerWeights) -> CLayer:
    return CLayer(
        address(layer.input_norm),
        _shape(layer.qkv),
        address(layer.q_norm),
        address(layer.k_norm),
        _shape(layer.output),
        address(layer.post_norm),
        _shape(layer.gate_up),
        _shape(layer.down),
    )


def _page_table(segments: Sequence[Segment]) -> torch.Tensor:
    """int32 [tokens, n]: the pages of each token's request."""
    longest = max(len(segment.pages) for segment in segments)
    rows = [
        own
        for segment in segments
        for own in [[*segment.pages, *([0] * (longest - len(segment.pages)))]] * len(segment.tokens)
    ]
    return torch.tensor(rows, dtype=torch.int32)
