"""Which version of a model answers."""

import hashlib
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.routes import choose, share, sticky_key
from coordinator.store.model_records import Route
from manta.ids import RunId, Tenant

KEYS = [f"key-{n}" for n in range(10_000)]
WEIGHTS = st.dictionaries(st.integers(1, 50), st.integers(1, 1_000_000), min_size=1, max_size=16)


def a_route(weights: dict[int, int]) -> Route:
    return Route("m", 1, weights, "run", "split", "active", "", 0.0, 0.0, "")


def members(route: Route, version: int) -> set[str]:
    return {key for key in KEYS if choose(route, key) == version}


@pytest.mark.parametrize(
    "weights",
    [{1: 90, 2: 10}, {1: 1, 2: 1}, {3: 1, 7: 2, 9: 7}, {1: 999, 2: 1}, {1: 1, 2: 1_000_000}],
    ids=str,
)
def test_each_version_gets_its_share(weights: dict[int, int]):
    whole = sum(weights.values())
    for version, weight in weights.items():
        expected = weight / whole
        deviation = math.sqrt(len(KEYS) * expected * (1 - expected))
        # One of a million samples is further away.
        assert abs(len(members(a_route(weights), version)) - len(KEYS) * expected) <= 5 * deviation + 1


def test_a_canary_that_grows_keeps_those_it_has():
    seen: set[str] = set()
    for percent in (1, 5, 10, 50, 90, 99):
        now = members(a_route({1: 100 - percent, 2: percent}), 2)
        assert seen < now
        seen = now
    assert members(a_route({2: 100}), 2) == set(KEYS)


def test_the_order_in_which_shares_are_told_does_not_matter():
    one, other = a_route({1: 3, 2: 7}), a_route({2: 7, 1: 3})
    assert [choose(one, key) for key in KEYS[:500]] == [choose(other, key) for key in KEYS[:500]]


def test_models_draw_apart():
    one = a_route({1: 50, 2: 50})
    other = replace(one, model="n")
    both = members(one, 2) & members(other, 2)
    assert 0.2 < len(both) / len(KEYS) < 0.3


def test_places_are_where_they_always_were():
    # Another process, or another version of Manta, must come to the same.
    digest = hashlib.sha256(b"m:run-1").hexdigest()
    assert share("m", "run-1") == pytest.approx(int(digest, 16) / 2**256, abs=1e-15) == 0.8918418867841998
    assert [choose(a_route({1: 50, 2: 50}), f"run-{n}") for n in range(8)] == [1, 1, 2, 2, 1, 2, 2, 1]


@settings(deadline=None)
@given(st.text(), st.text())
def test_a_place_is_from_0_to_below_1(model: str, key: str):
    assert 0 <= share(model, key) < 1


@settings(deadline=None)
@given(WEIGHTS, st.text())
def test_what_is_chosen_has_a_share(weights: dict[int, int], key: str):
    assert choose(a_route(weights), key) in weights


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 1_000_000), st.text())
def test_one_version_gets_everything(version: int, weight: int, key: str):
    assert choose(a_route({version: weight}), key) == version


def test_what_calls_stick_by():
    run, tenant = RunId("r"), Tenant("acme")
    assert sticky_key("run", run, tenant, "ann") == "r"
    assert sticky_key("user", run, tenant, "ann") == "acme/ann"
    assert sticky_key("run", None, tenant, "ann") == "acme/ann"
    assert sticky_key("user", run, tenant, "") == "r"
    assert sticky_key("run", None, tenant, "") is None
    assert sticky_key("none", run, tenant, "ann") is None
