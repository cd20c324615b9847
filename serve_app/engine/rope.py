"""Rotary position embedding: one table of rotations per model."""

import math

import torch

from serve_app.engine.spec import ModelSpec, RopeScaling


def rope_table(spec: ModelSpec, context: int, factors: torch.Tensor | None = None) -> torch.Tensor:
    """complex64 [context, head_dim/2]: the rotation of each pair. `factors` [head_dim/2] divide the frequencies."""
    steps = torch.arange(0, spec.head_dim, 2, dtype=torch.int64).float() / spec.head_dim
    frequencies = 1.0 / (spec.rope_theta**steps)
    if factors is not None:
        frequencies = frequencies / factors.float()
    elif spec.rope_scaling is not None:
        frequencies = _scale(frequencies, spec.rope_scaling)
    angles = torch.outer(torch.arange(context, dtype=torch.float32), frequencies)
    return torch.complex(angles.cos(), angles.sin())


def _scale(frequencies: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    wavelength = 2 * math.pi / frequencies
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    blend = ((scaling.original_context / wavelength - low) / (high - low)).clamp(0.0, 1.0)
    return frequencies / scaling.factor * (1 - blend) + frequencies * blend


def side_by_side(rows: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows of whole heads (q and k weights, biases, norms) with each rotary pair side by side.

    Checkpoints keep the two of a pair half a head apart. Together they are one complex number, and a rotation
    one multiplication; products of queries and keys do not see the order.
    """
    return rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
