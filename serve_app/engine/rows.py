"""Which rows of a step's hidden states become logits."""

from collections.abc import Sequence

import torch

from serve_app.engine.batch import Segment


def wanted_rows(segments: Sequence[Segment], order: Sequence[int], device: torch.device) -> torch.Tensor:
    """The last row of each segment that wants logits, in the order of the segments; `order` is that of the rows."""
    last: dict[int, int] = {}
    total = 0
    for index in order:
        total += len(segments[index].tokens)
        last[index] = total - 1
    rows = [last[index] for index, segment in enumerate(segments) if segment.wants_logits]
    return torch.tensor(rows, dtype=torch.int64, device=device)
