"""The KV memory: keys and values of every layer in pages of token places, preallocated."""

import math
import mmap
from collections.abc import Sequence

import torch

from serve_app.engine.spec import ModelSpec


class KvCache:
    """`keys` and `values`: per layer [pages + 1, kv_heads, page, head_dim], so that a page of a head is one matrix.

    The last page, `spare`, is no request's: rows that only fill up a step are kept there.
    """

    def __init__(
        self, spec: ModelSpec, pages: int, page: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.page = page
        self.spare = pages
        self._kv_heads = spec.kv_heads
        shape = (spec.layers, 2, pages + 1, spec.kv_heads, page, spec.head_dim)
        # Zeroed, because masked places are multiplied by zero, which garbage might survive.
        self._memory = _zeroed(shape, dtype, device)
        self.keys = [self._memory[layer, 0] for layer in range(spec.layers)]
        self.values = [self._memory[layer, 1] for layer in range(spec.layers)]
        self._rows = [self._memory[layer].view(-1, spec.head_dim) for layer in range(spec.layers)]
        heads = torch.arange(spec.kv_heads, device=device)
        self._offsets = torch.cat((heads, heads + (pages + 1) * spec.kv_heads)) * page

    def rows(self, pages: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Where tokens at places `offsets` of `pages` go, for `write`: one row for each key and value head."""
        first = pages * (self._kv_heads * self.page) + offsets
        return (first[:, None] + self._offsets).flatten()

    def write(self, layer: int, rows: torch.Tensor, entries: torch.Tensor) -> None:
        """Store entries [tokens, 2 * kv_heads, head_dim], keys before values."""
        self._rows[layer].index_copy_(0, rows, entries.reshape(-1, entries.shape[-1]))

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy whole pages, in order."""
        for source, target in zip(sources, targets, strict=True):
            self._memory[:, :, target] = self._memory[:, :, source]


def _zeroed(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """On the CPU zero pages of the system, which become resident only when they are written; `torch.zeros`
    writes them all.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    return torch.frombuffer(pages, dtype=dtype).view(shape)
