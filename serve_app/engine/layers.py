"""The weights of a model as its forward pass takes them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from serve_app.engine.linear import Product

Table: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""Rows [tokens, hidden] by token."""


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """`qkv` and `gate_up` are stacked, so that each is one product. Norms are float32 in every model."""

    input_norm: torch.Tensor
    qkv: Product
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    output: Product
    post_norm: torch.Tensor
    gate_up: Product
    down: Product


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """`scoring`: the head's rows, for exact scores where products are rounded. `turns` [context, head_dim / 2]: each
    position's rotation, as complex numbers.
    """

    embedding: Table
    layers: tuple[LayerWeights, ...]
    norm: torch.Tensor
    head: Product
    scoring: torch.Tensor | None
    turns: torch.Tensor
