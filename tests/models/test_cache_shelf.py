"""A shelf against a plain model of it, and what it promises each tenant."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manta.ids import Tenant
from serve_app.models.cache import neighbours
from serve_app.models.cache.shelf import ROW_BYTES, Kept, Shelf, Shelves

ANN, BOB = Tenant("ann"), Tenant("bob")


def kept(key: str, tenant: Tenant = ANN, size: int = 1000, ttl_s: float = 100.0, **place: object) -> Kept:
    """`size`: of the whole row."""
    vector = place.pop("vector", b"")
    assert isinstance(vector, bytes)
    return Kept(tenant, key, b"x" * (size - ROW_BYTES - len(vector)), ttl_s, vector=vector, **place)  # type: ignore[arg-type]


def vector(degrees: float) -> bytes:
    angle = np.radians(degrees)
    return np.array([np.cos(angle), np.sin(angle)], np.float32).tobytes()


def near(key: str, degrees: float, ttl_s: float = 100.0) -> Kept:
    return kept(key, ttl_s=ttl_s, scope="s", vector=vector(degrees))


def test_what_was_unused_for_longest_goes_first():
    shelf = Shelf()
    for key in "abc":
        shelf.put(kept(key), 3000, now=0)
    assert shelf.get("a", now=1) is not None
    shelf.put(kept("d"), 3000, now=2)
    assert [key for key in "abcd" if shelf.get(key, now=3) is not None] == ["a", "c", "d"]
    assert (shelf.evicted, shelf.bytes, len(shelf)) == (1, 3000, 3)


def test_a_tenant_that_keeps_much_pushes_out_its_own():
    shelf = Shelf()
    shelf.put(kept("b1", BOB), 4000, now=0)
    for number in range(50):
        shelf.put(kept(f"a{number}"), 4000, now=1)
    assert shelf.get("b1", now=2) is not None
    assert {row.key for row in shelf} == {"b1", "a47", "a48", "a49"}


def test_one_large_answer_does_not_empty_the_shelf_of_others():
    shelf = Shelf()
    for number in range(3):
        shelf.put(kept(f"b{number}", BOB), 4000, now=0)
    assert not shelf.put(kept("a", size=3500), 4000, now=0)
    assert {row.key for row in shelf} == {"b0", "b1", "b2"}


def test_the_same_key_again_takes_the_place_of_what_was_there():
    shelf = Shelf()
    shelf.put(kept("a", size=1000), 3000, now=0)
    shelf.put(kept("a", size=2000), 3000, now=50)
    assert (shelf.bytes, len(shelf)) == (2000, 1)
    found = shelf.get("a", now=149)
    assert found is not None
    assert (len(found.answer), found.ttl_s) == (2000 - ROW_BYTES, 1.0), "with its time from now on"
    assert shelf.get("a", now=150) is None
    assert (shelf.bytes, len(shelf)) == (0, 0)


def test_a_bound_that_has_become_smaller_is_kept_to():
    shelf = Shelf()
    for number in range(9):
        shelf.put(kept(str(number)), 9000, now=0)
    shelf.put(kept("9"), 2000, now=0)
    assert {row.key for row in shelf} == {"8", "9"}


Move = tuple[str, int, int, int]
MOVES = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", "cid"]), st.integers(0, 7), st.integers(6, 40), st.integers(0, 3)
    ),
    max_size=60,
)
ROOM = 6000


@settings(max_examples=200, deadline=None)
@given(MOVES)
def test_any_use_of_a_shelf(moves: list[Move]):
    """Nobody loses anything to others while it holds less than an equal share, and nothing is lost for no reason."""
    shelf, now = Shelf(), 0.0
    there: dict[str, tuple[str, int, float]] = {}
    for who, number, hundreds, seconds in moves:
        now += seconds
        key = f"{who}{number}"
        before = {name for name in there if shelf.get(name, now) is not None}
        assert before == {name for name, (_, _, end) in there.items() if end > now}
        there = {name: there[name] for name in before}
        row = kept(key, Tenant(who), hundreds * 100, ttl_s=5.0)
        stored = shelf.put(row, ROOM, now)
        there[key] = (who, row.size, now + 5.0)
        left = {row.key for row in shelf}
        assert stored == (key in left)
        held = {name: sum(s for k, (w, s, _) in there.items() if w == name) for name in ("ann", "bob", "cid")}
        gone = set(there) - left
        for name in gone:
            owner = there[name][0]
            assert sum(held.values()) > ROOM, "there was no room"
            assert held[owner] > ROOM / 3, "it held more than its share"
        there = {name: facts for name, facts in there.items() if name in left}
        assert shelf.bytes == sum(size for _, size, _ in there.values()) <= ROOM


def test_the_nearest_that_is_near_enough_is_found():
    shelf = Shelf()
    for key, degrees in (("a", 0), ("b", 10), ("c", 90)):
        shelf.put(near(key, degrees), 9000, now=0)
    found = shelf.near("s", vector(8), 0.9, now=1)
    assert found is not None
    assert found.key == "b"
    assert shelf.near("s", vector(50), 0.9, now=1) is None
    assert shelf.near("elsewhere", vector(8), 0.9, now=1) is None


def test_a_question_is_as_near_as_can_be_to_itself():
    shelf = Shelf()
    for degrees in range(0, 360, 7):
        shelf.put(near(str(degrees), degrees), 99_000, now=0)
    for degrees in range(0, 360, 7):
        found = shelf.near("s", vector(degrees), 1.0, now=0)
        assert found is not None
        assert found.key == str(degrees)


def test_what_is_out_of_time_hides_nothing_that_is_not():
    shelf = Shelf()
    shelf.put(near("old", 0, ttl_s=10), 9000, now=0)
    shelf.put(near("new", 5), 9000, now=5)
    found = shelf.near("s", vector(0), 0.9, now=10)
    assert found is not None
    assert found.key == "new"
    assert len(shelf) == 1
    assert shelf.near("s", vector(0), 0.9, now=105) is None
    assert (len(shelf), shelf.bytes, shelf._scopes) == (0, 0, {}), "nothing of it is left"


def test_what_was_evicted_is_not_found_by_its_meaning():
    shelf = Shelf()
    shelf.put(near("a", 0), 2000, now=0)
    shelf.put(near("b", 90), 2000, now=0)
    shelf.put(near("c", 91), 2000, now=0)
    assert shelf.near("s", vector(0), 0.9, now=0) is None
    shelf.put(kept("b"), 2000, now=0)
    assert shelf.near("s", vector(90), 0.9999, now=0) is None, "its new answer has no meaning"


@pytest.mark.parametrize("most", [1, 3])
def test_there_is_a_bound_on_what_is_compared(monkeypatch: pytest.MonkeyPatch, most: int):
    monkeypatch.setattr(neighbours, "MOST", most)
    shelf = Shelf()
    for number in range(10):
        shelf.put(near(str(number), number * 30), 99_000, now=0)
    assert {row.key for row in shelf} == {str(number) for number in range(10 - most, 10)}
    assert shelf.near("s", vector(270), 0.99, now=0) is not None
    assert shelf.near("s", vector(0), 0.99, now=0) is None


def test_models_do_not_push_out_each_others():
    shelves = Shelves()
    shelves.of("a").put(kept("1"), 1000, now=0)
    shelves.of("b").put(kept("1"), 1000, now=0)
    assert len(shelves.of("a")) == 1
    shelves.forget("a")
    shelves.forget("never seen")
    assert (len(shelves.of("a")), len(shelves.of("b"))) == (0, 1)
