"""The KV memory: keys and values of every layer in one row of token places, preallocated.

A request owns a contiguous stretch of places, so attention reads it as a view and nothing is gathered.
"""

import torch

from serve_app.engine.spec import ModelSpec


class KvCache:
    """`keys` and `values`: per layer [kv_heads, places, head_dim]."""

    def __init__(self, spec: ModelSpec, places: int, dtype: torch.dtype, device: torch.device) -> None:
        self.places = places
        shape = (spec.layers, 2, spec.kv_heads, places, spec.head_dim)
        # Not zeroed: pages the load never reaches then never become resident.
        self._memory = torch.empty(shape, dtype=dtype, device=device)
        self.keys = [self._memory[layer, 0] for layer in range(spec.layers)]
        self.values = [self._memory[layer, 1] for layer in range(spec.layers)]

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy `count` places; the two stretches must not overlap."""
        self._memory[..., target : target + count, :] = self._memory[..., source : source + count, :]
