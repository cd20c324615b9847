"""Attention over scattered pages equals plain attention over each request's own tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.engine.attention import decode_attention, lay_out_decode
from serve_app.engine.batch import Segment

PAGE, KV_HEADS, GROUP, WIDTH = 8, 2, 3, 16
LENGTHS = st.lists(st.integers(1, 3 * PAGE + 1), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.integers(0, 40), st.randoms(use_true_random=False))
def test_decoding_equals_plain_attention(lengths: list[int], strangers: int, random) -> None:
    generator = torch.Generator().manual_seed(random.randrange(10**6))
    needed = [-(-length // PAGE) for length in lengths]
    total = sum(needed) + strangers
    order = list(range(total))
    random.shuffle(order)
    keys = torch.randn(total, KV_HEADS, PAGE, WIDTH, generator=generator)
    values = torch.randn(total, KV_HEADS, PAGE, WIDTH, generator=generator)
    q = torch.randn(len(lengths), KV_HEADS * GROUP, WIDTH, generator=generator)
    segments = []
    for length, count in zip(lengths, needed, strict=True):
        pages, order = order[:count], order[count:]
        segments.append(Segment((0,), tuple(pages), length - 1, wanted=1))
    mixed = decode_attention(q, keys, values, lay_out_decode(segments, keys))
    for row, segment in enumerate(segments):
        own = [
            memory[list(segment.pages)].transpose(0, 1).flatten(1, 2)[:, : segment.end]
            for memory in (keys, values)
        ]
        for head in range(KV_HEADS * GROUP):
            k, v = (each[head // GROUP] for each in own)
            plain = (k @ q[row, head] * WIDTH**-0.5).softmax(0) @ v
            found = mixed[row, head * WIDTH : (head + 1) * WIDTH]
            torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("pages", "copied", "simple"),
    [
        ([(3,), (4,)], False, True),
        ([(4,), (3,)], False, False),
        ([(0,), (5,)], True, True),
        ([(0, 2), (1,)], False, False),
    ],
)
def test_pages_near_each_other_are_read_in_place(pages, copied: bool, simple: bool) -> None:
    keys = torch.zeros(8, KV_HEADS, PAGE, WIDTH)
    segments = [Segment((0,), own, len(own) * PAGE - 1, wanted=1) for own in pages]
    layout = lay_out_decode(segments, keys)
    assert (layout.chosen is not None) == copied
    assert layout.simple == simple
