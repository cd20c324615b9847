"""The allocator hands out pages with one owner each; what is kept never stands in a running request's way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.engine.kept_kv import KeptKv
from serve_app.engine.kv_pages import KvPages


def test_running_fill_from_the_bottom_and_kept_from_the_top() -> None:
    pages = KvPages(10 * 8, 8)
    assert [pages.take_lowest() for _ in range(3)] == [0, 1, 2]
    assert pages.take_above(2) == 9
    assert pages.take_above(2) == 8
    pages.give_back(1)
    assert pages.take_lowest() == 1
    assert pages.take_above(7) is None
    with pytest.raises(ValueError, match="free already"):
        pages.give_back(9 - 4)


def test_memory_smaller_than_a_page_is_one_page() -> None:
    pages = KvPages(64, 128)
    assert (pages.size, pages.total) == (64, 1)
    assert pages.needed(64) == 1
    assert pages.needed(65) == 2


def test_a_finished_request_moves_out_of_the_way_and_the_oldest_gives_way() -> None:
    pages = KvPages(4 * 16, 16)
    kept = KeptKv(pages)
    first = [pages.take_lowest() for _ in range(2)]
    assert kept.add(range(30), first, move=True) == [(0, 3), (1, 2)]
    second = [pages.take_lowest() for _ in range(2)]
    # No page is free above: the end of the oldest gives way, once for each page that wins by it.
    assert kept.add(range(100, 130), second, move=True) == [(0, 2), (1, 3)]
    assert [entry.tokens for entry in kept.entries] == [tuple(range(100, 130))]
    assert kept.longest(range(100, 120)) == (20, (2, 3))


@given(st.integers(1, 12), st.lists(st.tuples(st.sampled_from("lhg"), st.integers(0, 11)), max_size=60))
def test_every_page_has_one_owner(total: int, actions: list[tuple[str, int]]) -> None:
    pages = KvPages(total * 4, 4)
    held: list[int] = []
    for action, number in actions:
        if action == "g" and held:
            pages.give_back(held.pop(number % len(held)))
        elif action == "l" and pages.free:
            lowest = pages.take_lowest()
            assert lowest == min(set(range(total)) - set(held))
            held.append(lowest)
        elif action == "h":
            page = pages.take_above(number)
            free = [p for p in range(total) if p not in held and p > number]
            assert page == (max(free) if free else None)
            held.extend([] if page is None else [page])
        assert len(held) == len(set(held)) == pages.used == total - pages.free
