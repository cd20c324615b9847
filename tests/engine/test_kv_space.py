"""The allocator hands out stretches that never overlap and joins what comes back."""

from hypothesis import given
from hypothesis import strategies as st

from serve_app.engine.kv_space import KvSpace


def test_first_fit_and_joining() -> None:
    space = KvSpace(10)
    first, second, third = space.take(3), space.take(4), space.take(3)
    assert (first, second, third) == (0, 3, 7)
    assert space.take(1) is None
    space.give_back(0, 3)
    space.give_back(7, 3)
    assert space.take(4) is None
    space.give_back(3, 4)
    assert space.take(10) == 0


@given(st.integers(0, 50), st.lists(st.tuples(st.booleans(), st.integers(1, 20)), max_size=60))
def test_never_overlapping_and_nothing_leaks(total: int, actions: list[tuple[bool, int]]) -> None:
    space = KvSpace(total)
    held: list[tuple[int, int]] = []
    for take, size in actions:
        if take:
            start = space.take(size)
            if start is not None:
                held.append((start, size))
        elif held:
            space.give_back(*held.pop(size % len(held)))
        places = [place for start, count in held for place in range(start, start + count)]
        assert len(places) == len(set(places)) == space.used
        assert all(0 <= place < total for place in places)
    for stretch in held:
        space.give_back(*stretch)
    assert total == 0 or space.take(total) == 0
