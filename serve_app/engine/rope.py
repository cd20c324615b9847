"""Rotary position embedding: one table of cosines and sines per model."""

import math

import torch

from serve_app.engine.spec import ModelSpec, RopeScaling


def rope_table(spec: ModelSpec, context: int, factors: torch.Tensor | None = None) -> torch.Tensor:
    """float32 [context, 2, head_dim/2]: cosines and sines. `factors` [head_dim/2] divide the frequencies."""
    steps = torch.arange(0, spec.head_dim, 2, dtype=torch.int64).float() / spec.head_dim
    frequencies = 1.0 / (spec.rope_theta**steps)
    if factors is not None:
        frequencies = frequencies / factors.float()
    elif spec.rope_scaling is not None:
        frequencies = _scale(frequencies, spec.rope_scaling)
    angles = torch.outer(torch.arange(context, dtype=torch.float32), frequencies)
    return torch.stack((angles.cos(), angles.sin()), dim=1)


def _scale(frequencies: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    wavelength = 2 * math.pi / frequencies
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    blend = ((scaling.original_context / wavelength - low) / (high - low)).clamp(0.0, 1.0)
    return frequencies / scaling.factor * (1 - blend) + frequencies * blend


def rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate [tokens, heads, head_dim] by cos and sin [tokens, 1, head_dim/2]."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
