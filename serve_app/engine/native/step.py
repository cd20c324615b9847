"""All layers of a batch in one call of compiled code."""

from collections.abc import Sequence
from ctypes import CDLL, byref, c_void_p

import torch

from serve_app.engine.batch import Segment
from serve_app.engine.kv_cache import KvCache
from serve_app.engine.layers import LayerWeights, ModelWeights
from serve_app.engine.linear import Product
from serve_app.engine.native.product import NativeInt8Linear, NativeLinear
from serve_app.engine.native.shapes import (
    FEW_ROWS,
    OUTPUTS,
    QUERIES,
    CCache,
    CLayer,
    CModel,
    CProduct,
    CScratch,
    CStep,
    address,
)
from serve_app.engine.rows import wanted_rows
from serve_app.engine.spec import ModelSpec

_ROWS, _PLACES = 64, 32 * OUTPUTS
"""Room is made for a multiple of so many rows, and of so many positions."""

_SCORES = 1 << 18
"""Of a thread at a time, as far as that is enough for one token: more would not stay near the processor."""


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

    def forward(self, segments: Sequence[Segment], cache: KvCache) -> torch.Tensor:
        """float32 logits [wanted, vocabulary], in the order of the segments that want them."""
        ids = torch.tensor([token for segment in segments for token in segment.tokens])
        hidden = self._weights.embedding(ids).float().contiguous()
        room = self._room(len(ids), max(segment.end for segment in segments))
        blocks, pages = _blocks(segments, room.tokens)
        wanted = wanted_rows(segments, range(len(segments)), ids.device)
        step = CStep(
            len(ids),
            address(blocks),
            len(blocks),
            address(pages),
            pages.shape[1],
            address(wanted),
            len(wanted),
            len(ids) == len(segments),
        )
        last = torch.empty(len(wanted), self._spec.hidden)
        logits = torch.empty(len(wanted), self._spec.vocab_size)
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

    def _room(self, rows: int, longest: int) -> "_Scratch":
        threads = torch.get_num_threads()
        known = self._scratch
        if known is None or not known.serves(threads, rows, longest):
            number = torch.float32 if isinstance(self._weights.head, NativeLinear) else torch.int16
            if known is not None:
                rows, longest = max(rows, known.rows), max(longest, known.longest)
            # The old one first, or both would be there at once.
            known = self._scratch = None
            known = self._scratch = _Scratch(self._spec, threads, rows, longest, number)
        return known


class _Scratch:
    """Room for what a step computes on its way, for at least what is asked for.

    `rows` of a step; `longest`: positions that a row looks at; `tokens` of a block. `number`: what products take.
    """

    def __init__(self, spec: ModelSpec, threads: int, rows: int, longest: int, number: torch.dtype) -> None:
        queries = spec.heads * spec.head_dim
        qkv = queries + 2 * spec.kv_heads * spec.head_dim
        widest = max(spec.hidden, queries, spec.feed_forward)
        self.threads = threads
        self.rows = -(-rows // _ROWS) * _ROWS
        self.longest = -(-longest // _PLACES) * _PLACES
        group = spec.heads // spec.kv_heads
        self.tokens = max(1, min(QUERIES, _SCORES // self.longest) // group)
        at_once = self.tokens * group
        self._tensors = (
            torch.empty(max(self.rows, FEW_ROWS * threads), widest, dtype=number),
            torch.empty(max(self.rows, FEW_ROWS * threads)),
            torch.empty(threads, widest),
            torch.empty(self.rows, max(qkv, 2 * spec.feed_forward, spec.hidden)),
            torch.empty(self.rows, queries),
            torch.empty(threads, at_once, self.longest),
            torch.empty(threads, QUERIES + OUTPUTS, spec.head_dim),
        )
        addresses = (address(tensor) for tensor in self._tensors)
        self.shape = CScratch(*addresses, at_once, self.longest, widest)

    def serves(self, threads: int, rows: int, longest: int) -> bool:
        return threads <= self.threads and rows <= self.rows and longest <= self.longest


def all_native(spec: ModelSpec, weights: ModelWeights) -> bool:
    """Whether the compiled step knows every product, and takes heads of this width and so many queries a key head."""
    if spec.head_dim % OUTPUTS or spec.heads > QUERIES * spec.kv_heads:
        return False
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


def _blocks(segments: Sequence[Segment], most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Stretches of at most so many rows of one segment: int64 [n, 3], first row, how many, position of the first; and
    int32 [n, m], the pages of each one's request.
    """
    longest = max(len(segment.pages) for segment in segments)
    blocks, pages, row = [], [], 0
    for segment in segments:
        own = [*segment.pages, *([0] * (longest - len(segment.pages)))]
        for at in range(0, len(segment.tokens), most):
            blocks.append((row + at, min(most, len(segment.tokens) - at), segment.position + at))
            pages.append(own)
        row += len(segment.tokens)
    return torch.tensor(blocks, dtype=torch.int64), torch.tensor(pages, dtype=torch.int32)
