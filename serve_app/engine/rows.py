"""Which rows of a step's hidden states become logits."""

from collections.abc import Sequence

import torch

from serve_app.engine.batch import Segment


def wanted_rows(segments: Sequence[Segment], order: Sequence[int], device: torch.device) -> torch.Tensor:
    """The wanted rows of each segment, in the order of the segments; `order` is that of the rows."""
    ends: dict[int, int] = {}
    total = 0
    for index in order:
        total += len(segments[index].tokens)
        ends[index] = total
    rows = [
        row for index, each in enumerate(segments) for row in range(ends[index] - each.wanted, ends[index])
    ]
    return torch.tensor(rows, dtype=torch.int64, device=device)
