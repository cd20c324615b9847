"""Versions beside each other: figures, differences, and what may be called significant."""

import json
import math
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.experiments import METRICS, Comparison, Difference, Metric, Observed, compare
from coordinator.samples import Moments
from coordinator.store.model_records import Route
from manta.messages import to_json


def a_route(*versions: int) -> Route:
    weights = {version: 100 // n for n, version in enumerate(versions, 1)}
    return Route("m", 4, weights, "run", "split", "past", "", 0.5, 1.0, "", 2.0)


def moments(values: list[float]) -> Moments:
    return Moments(len(values), math.fsum(values), math.fsum(value * value for value in values))


def seen(version: int, n: int = 200, seed: int = 1, failing: float = 0.1, slower: float = 1.0) -> Observed:
    """Calls as they come: times are log-normal, of a median of half a second and two seconds."""
    draw = random.Random(f"{seed}/{version}")
    failures = sum(draw.random() < failing for _ in range(n))
    answered = n - failures
    return Observed(
        version,
        n,
        failures,
        answered * 40,
        moments([math.log(0.5 * slower) + draw.gauss(0, 0.4) for _ in range(answered)]),
        moments([math.log(2.0 * slower) + draw.gauss(0, 0.4) for _ in range(answered)]),
        moments([float(draw.randint(50, 150)) for _ in range(answered)]),
        moments([float(draw.randint(1, 5)) for _ in range(n // 2)]),
    )


def difference(found: Comparison, metric: Metric, version: int = 2) -> Difference:
    (one,) = (d for d in found.differences if (d.metric, d.version) == (metric, version))
    return one


def test_figures_are_in_the_units_that_people_read():
    one = Observed(
        1, 40, 10, 900, moments([math.log(0.5), math.log(2.0)]), moments([math.log(4.0)] * 2),
        moments([2e6, 4e6]), moments([3.0, 4.0]),
    )  # fmt: skip
    found = compare(a_route(1, 2), [one])

    arm, other = found.arms
    assert (arm.version, arm.share, arm.calls, arm.failures, arm.output_tokens) == (1, 100 / 150, 40, 10, 900)
    figures = {figure.metric: (figure.n, figure.value) for figure in arm.figures}
    assert tuple(figures) == METRICS
    assert figures["failures"] == (40, 0.25)
    assert math.isclose(figures["first_s"][1], 1.0)
    assert math.isclose(figures["total_s"][1], 4.0)
    assert figures["cost"] == (2, 3.0)
    assert figures["rating"] == (2, 3.5)
    assert (other.version, other.calls) == (2, 0)
    assert [(figure.n, figure.value) for figure in other.figures] == [(0, None)] * 5
    assert (found.model, found.revision, found.baseline, found.since, found.until) == ("m", 4, 1, 1.0, 2.0)


def test_with_too_little_nothing_is_significant_and_it_says_what_is_missing():
    found = compare(a_route(1, 2), [seen(1), seen(2, n=29, failing=1.0)])

    failures = difference(found, "failures")
    assert failures.p is not None
    assert failures.p < 1e-9
    assert (failures.significant, failures.better, failures.adjusted_p) == (False, None, None)
    assert failures.shortfall == "version 2 has 29 of 30 observations"
    first = difference(found, "first_s")
    assert (first.change, first.low, first.high, first.p) == (None, None, None, None)
    assert not found.enough
    assert compare(a_route(1, 2), []).enough is False
    assert all(d.shortfall for d in compare(a_route(1, 2), []).differences)


def test_a_large_difference_is_seen_and_which_way_it_goes():
    found = compare(a_route(1, 2), [seen(1), seen(2, failing=0.4, slower=1.5)])

    failures, total = difference(found, "failures"), difference(found, "total_s")
    assert (failures.significant, failures.better) == (True, False)
    assert total.is_factor
    assert (total.significant, total.better) == (True, False)
    assert total.low is not None
    assert total.high is not None
    assert total.low < 1.5 < total.high
    assert not difference(found, "cost").significant
    assert found.enough
    back = compare(a_route(1, 2), [seen(1, slower=1.5), seen(2)])
    assert (difference(back, "first_s").significant, difference(back, "first_s").better) == (True, True)


def test_a_higher_rating_is_better():
    good, bad = (Observed(n, rating=moments(values * 20)) for n, values in ((2, [5.0, 4.0]), (1, [1.0, 2.0])))
    rating = difference(compare(a_route(1, 2), [good, bad]), "rating")
    assert (rating.change, rating.significant, rating.better, rating.enough) == (3.0, True, True, True)


def test_without_a_difference_one_is_rarely_called_significant():
    called = 0
    for seed in range(200):
        found = compare(a_route(1, 2), [seen(1, seed=seed), seen(2, seed=seed)])
        called += any(one.significant for one in found.differences)
    # 10 of 200 are to be expected, over all five metrics together; one of 10,000 tries has over 22.
    assert called <= 22


def test_more_versions_are_more_chances_to_err():
    two = compare(a_route(1, 2), [seen(1), seen(2)])
    three = compare(a_route(1, 2, 3), [seen(1), seen(2), seen(3)])

    assert [d.baseline for d in three.differences] == [1] * 10
    for metric in METRICS:
        one, other = difference(two, metric), difference(three, metric)
        assert one.p == other.p
        assert one.adjusted_p is not None
        assert other.adjusted_p is not None
        assert one.adjusted_p <= other.adjusted_p


def test_only_what_the_route_names_is_compared():
    found = compare(a_route(2, 3), [seen(1), seen(2), seen(3)])
    assert [arm.version for arm in found.arms] == [2, 3]
    assert found.baseline == 2


@settings(deadline=None)
@given(
    st.lists(st.floats(-60, 60), min_size=2, max_size=5),
    st.lists(st.floats(-60, 60), min_size=2, max_size=5),
)
def test_it_is_plain_json_whatever_was_seen(one: list[float], other: list[float]):
    both = [Observed(n, len(v), 0, 0, moments(v), moments(v)) for n, v in ((1, one), (2, other))]
    text = json.dumps(to_json(compare(a_route(1, 2), both)), allow_nan=False)
    assert json.loads(text)["differences"][0]["metric"] == "failures"
