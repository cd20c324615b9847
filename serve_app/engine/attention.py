"""Attention over the pages of the KV memory: all decoding requests at once, prompts one by one.

Decoding reads every page in place: each page of the range is multiplied with the queries of its owner, and
the parts of a request that fills several pages are joined by their softmax weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from serve_app.engine.batch import Segment

# Reading a stranger's page in place costs less than copying one of our own, up to this many for each.
_SPARSE = 2


@dataclass(frozen=True, slots=True)
class DecodeLayout:
    """Where the decoding requests' pages lie; rows are requests, in the order of the batch.

    `first`, `count`: the range of pages that is read; with `chosen` it is copied together instead.
    `owners` [count]: whose queries meet a page. `mask` [count * kv_heads, 1, page]: 0 or -inf.
    `parts` [rows, n]: the pages of each request within what is read; `absent` [rows, n, 1, 1]: -inf where a
    request has fewer. `simple`: each request has one page, and they lie in the rows' order.
    """

    first: int
    count: int
    chosen: torch.Tensor | None
    owners: torch.Tensor
    mask: torch.Tensor
    parts: torch.Tensor
    absent: torch.Tensor | None
    simple: bool


def lay_out_decode(segments: Sequence[Segment], keys: torch.Tensor) -> DecodeLayout:
    """Lay out segments of one token each over keys [pages, kv_heads, page, d]."""
    device, kv_heads, page = keys.device, keys.shape[1], keys.shape[2]
    pages = [segment.filled(page) for segment in segments]
    used = [p for own in pages for p in own]
    first, last = min(used), max(used)
    dense = last - first + 1 <= _SPARSE * len(used)
    where = {p: p - first for p in used} if dense else {p: index for index, p in enumerate(used)}
    count = last - first + 1 if dense else len(used)
    owners, valid = [0] * count, [page] * count
    for row, (segment, own) in enumerate(zip(segments, pages, strict=True)):
        for index, p in enumerate(own):
            owners[where[p]] = row
            valid[where[p]] = min(page, segment.end - index * page)
    longest = max(len(own) for own in pages)
    parts = [[where[p] for p in own] + [0] * (longest - len(own)) for own in pages]
    missing = [[0.0] * len(own) + [float("-inf")] * (longest - len(own)) for own in pages]
    unseen = torch.arange(page, device=device) >= torch.tensor(valid, device=device)[:, None]
    mask = torch.zeros(unseen.shape, dtype=keys.dtype, device=device).masked_fill_(unseen, float("-inf"))
    return DecodeLayout(
        first=first,
        count=count,
        chosen=None if dense else torch.tensor(used, device=device),
        owners=torch.tensor(owners, device=device),
        mask=mask.repeat_interleave(kv_heads, dim=0)[:, None],
        parts=torch.tensor(parts, device=device),
        absent=torch.tensor(missing, device=device)[:, :, None, None] if longest > 1 else None,
        simple=longest == 1 and owners == list(range(len(segments))),
    )


def decode_attention(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layout: DecodeLayout
) -> torch.Tensor:
    """q [rows, heads, d] over keys and values [pages, kv_heads, page, d]; gives [rows, heads * d]."""
    heads, width = q.shape[1:]
    kv_heads, page = keys.shape[1], keys.shape[2]
    group = heads // kv_heads
    if layout.chosen is None:
        stretch = slice(layout.first, layout.first + layout.count)
        keys, values = keys[stretch], values[stretch]
    else:
        keys, values = keys.index_select(0, layout.chosen), values.index_select(0, layout.chosen)
    keys, values = keys.view(-1, page, width), values.view(-1, page, width)
    asked = q if layout.simple else q.index_select(0, layout.owners)
    grouped = asked.reshape(-1, group, width)
    scores = torch.baddbmm(layout.mask, grouped, keys.transpose(1, 2), alpha=width**-0.5)
    if layout.absent is not None:
        return _joined(scores.float(), values, layout, layout.absent, heads)
    mixed = torch.bmm(scores.softmax(-1), values).view(layout.count, -1)
    return mixed if layout.simple else mixed.index_select(0, layout.parts[:, 0])


def _joined(
    scores: torch.Tensor, values: torch.Tensor, layout: DecodeLayout, absent: torch.Tensor, heads: int
) -> torch.Tensor:
    """The softmax over all pages of a request, put together from one softmax for each page."""
    peaks = scores.amax(-1, keepdim=True)
    weights = scores.sub_(peaks).exp_()
    sums = weights.sum(-1).view(layout.count, heads)[layout.parts]
    mixed = torch.bmm(weights.to(values.dtype), values).view(layout.count, heads, -1)[layout.parts]
    peaks = peaks.view(layout.count, heads)[layout.parts].unsqueeze(-1) + absent
    shares = (peaks - peaks.amax(1, keepdim=True)).exp_()
    total = (sums.unsqueeze(-1) * shares).sum(1)
    return ((mixed * shares).sum(1) / total).to(values.dtype).flatten(1)


@dataclass(frozen=True, slots=True)
class PagedLayout:
    """As tensors alone, so that a step over it can be recorded. `places` [rows * kv_heads * n]: where each request's
    pages lie among those of all heads; `seen` [rows, 1, 1, n * page]: whether a query looks at a token.
    """

    places: torch.Tensor
    seen: torch.Tensor


def lay_out_paged(pages: torch.Tensor, positions: torch.Tensor, kv_heads: int, page: int) -> PagedLayout:
    """Lay out one query a row at `positions` [rows]; `pages` [rows, n] hold its request's tokens, in order."""
    heads = torch.arange(kv_heads, device=pages.device)
    tokens = torch.arange(pages.shape[1] * page, device=pages.device)
    return PagedLayout(
        places=(pages[:, None] * kv_heads + heads[:, None]).flatten(),
        seen=(tokens <= positions[:, None])[:, None, None],
    )


def paged_attention(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layout: PagedLayout
) -> torch.Tensor:
    """As `decode_attention`; pages are copied together wherever they lie."""
    rows, heads, width = q.shape
    kv_heads, page = keys.shape[1:3]
    own_keys, own_values = (
        memory.view(-1, page, width).index_select(0, layout.places).view(rows, kv_heads, -1, width)
        for memory in (keys, values)
    )
    grouped = q.reshape(rows, kv_heads, heads // kv_heads, width)
    mixed = F.scaled_dot_product_attention(grouped, own_keys, own_values, attn_mask=layout.seen)
    return mixed.reshape(rows, heads * width)


def prompt_attention(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, position: int
) -> torch.Tensor:
    """Queries [tokens, heads, d] from `position` on, over keys and values [length, kv_heads, d] from 0 on."""
    count, heads, width = q.shape
    length, kv_heads = keys.shape[:2]
    shape = (kv_heads, heads // kv_heads, length, width)
    grouped = q.view(count, kv_heads, heads // kv_heads, width).permute(1, 2, 0, 3)
    mixed = F.scaled_dot_product_attention(
        grouped,
        keys.transpose(0, 1)[:, None].expand(shape),
        values.transpose(0, 1)[:, None].expand(shape),
        attn_mask=_later_chunk_mask(position, count, q.device) if position and count > 1 else None,
        is_causal=position == 0,
    )
    return mixed.permute(2, 0, 1, 3).reshape(count, heads * width)


def gathered(memory: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
    """Pages of [pages, kv_heads, page, d] as one stretch [tokens, kv_heads, d]."""
    return memory.index_select(0, pages).transpose(1, 2).flatten(0, 1)


def _later_chunk_mask(position: int, count: int, device: torch.device) -> torch.Tensor:
    """torch's own causal mask starts at the first token."""
    seen = torch.arange(position + count, device=device)
    return seen[None, :] <= seen[position:, None]
