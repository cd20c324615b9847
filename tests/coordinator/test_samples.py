"""Statistics against printed tables, other programs' answers, and what must hold for any sample."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.samples import Moments, holm, proportions, t_quantile, t_tails, welch

SIZES = st.integers(0, 10_000)
VALUES = st.lists(st.floats(-1e6, 1e6), max_size=40)


def moments(values: list[float]) -> Moments:
    return Moments(len(values), math.fsum(values), math.fsum(value * value for value in values))


@pytest.mark.parametrize(
    ("tails", "freedom", "printed"),
    [
        # Critical values of Student's t, two-sided; NIST/SEMATECH e-Handbook 1.3.6.7.2, more digits from R's qt.
        (0.05, 1, 12.706205),
        (0.05, 2, 4.302653),
        (0.20, 3, 1.637744),
        (0.01, 5, 4.032143),
        (0.10, 7, 1.894579),
        (0.05, 10, 2.228139),
        (0.002, 15, 3.732834),
        (0.05, 30, 2.042272),
        (0.01, 60, 2.660283),
        (0.001, 120, 3.373454),
        (0.05, 1000, 1.962339),
        (0.05, 5_000_000, 1.959964),
    ],
)
def test_students_distribution_is_the_printed_one(tails: float, freedom: float, printed: float):
    assert t_quantile(tails, freedom) == pytest.approx(printed, abs=6e-7)
    assert t_tails(printed, freedom) == pytest.approx(tails, abs=5e-7)


def test_students_distribution_at_its_ends():
    # Of one degree of freedom it is Cauchy's, of two it has a closed form.
    for t in (1e-9, 0.3, 1.0, 7.0, 1e6, 1e200):
        assert t_tails(t, 1) == pytest.approx(1 - 2 * math.atan(t) / math.pi, abs=1e-12)
        assert t_tails(-t, 2) == pytest.approx(1 - t / math.hypot(t, math.sqrt(2)), abs=1e-12)
    assert t_tails(0, 5) == 1
    # No step where the normal distribution takes over.
    assert t_tails(3, 999_999) == pytest.approx(t_tails(3, 1_000_001), rel=1e-4)


@settings(deadline=None)
@given(st.floats(0, 100), st.floats(0, 10), st.floats(1, 1e7))
def test_farther_values_are_rarer(t: float, more: float, freedom: float):
    assert 0 <= t_tails(t + more, freedom) <= t_tails(t, freedom) + 1e-9 <= 1 + 1e-9


def test_welchs_test_gives_what_others_give():
    # Worked out by hand from the definition: t = -3.0 / sqrt(1/3 + 28/15), its freedom 5.3388.
    one, other = [1.0, 2.0, 3.0], [2.0, 4.0, 6.0, 8.0, 5.0]
    found = welch(moments(one), moments(other))
    assert found is not None
    assert found.change == pytest.approx(3.0)
    error = math.sqrt(1 / 3 + 1.0)
    freedom = (1 / 3 + 1.0) ** 2 / ((1 / 3) ** 2 / 2 + 1.0 / 4)
    assert found.p == pytest.approx(t_tails(3.0 / error, freedom))
    assert found.high - found.change == pytest.approx(t_quantile(0.05, freedom) * error)


def test_samples_without_spread():
    alike = welch(moments([0.1] * 40), moments([0.1] * 70))
    apart = welch(moments([0.1] * 40), moments([0.2] * 70))
    assert alike is not None
    assert apart is not None
    assert (alike.p, apart.p) == (1.0, 0.0)
    assert welch(moments([0.0] * 9), moments([0.0] * 9)) == welch(Moments(9), Moments(9))
    # Rounding of long sums is no spread and no difference.
    long = Moments(10**6, math.log(0.37) * 10**6, math.log(0.37) ** 2 * 10**6 * (1 + 1e-15))
    found = welch(long, moments([math.log(0.37)] * 50))
    assert found is not None
    assert found.p == 1.0


@settings(deadline=None)
@given(VALUES, VALUES)
def test_means_compare_alike_from_either_side(one: list[float], other: list[float]):
    there, back = welch(moments(one), moments(other)), welch(moments(other), moments(one))
    if there is None or back is None:
        assert there is back is None
        assert min(len(one), len(other)) < 2
        return
    assert 0 <= there.p <= 1
    assert there.low <= there.change <= there.high
    assert there.p == pytest.approx(back.p, abs=1e-9)
    assert (there.change, there.low, there.high) == pytest.approx(
        (-back.change, -back.high, -back.low), rel=1e-6
    )


def test_shares_by_published_examples():
    # Newcombe 1998, table II, case a, method 10: 56 of 70 against 48 of 80.
    found = proportions(48, 80, 56, 70)
    assert found is not None
    assert (found.change, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    # The pooled normal test by hand: 0.2 / sqrt(104/150 * 46/150 * (1/80 + 1/70)) = 2.6499.
    assert found.p == pytest.approx(0.008052, abs=2e-5)
    # Fisher's tea: 3 of 4 against 1 of 4, two-sided 34/70; and R's fisher.test of 1, 9, 11, 3.
    tea, diet = proportions(3, 4, 1, 4), proportions(1, 10, 11, 14)
    assert tea is not None
    assert diet is not None
    assert tea.p == pytest.approx(34 / 70)
    assert diet.p == pytest.approx(0.002759456, abs=1e-9)


@settings(deadline=None)
@given(SIZES, SIZES, st.floats(0, 1), st.floats(0, 1))
def test_shares_compare_alike_from_either_side(of: int, of_other: int, part: float, other_part: float):
    hits, other_hits = round(of * part), round(of_other * other_part)
    there, back = proportions(hits, of, other_hits, of_other), proportions(other_hits, of_other, hits, of)
    if there is None or back is None:
        assert there is back is None
        assert 0 in (of, of_other)
        return
    assert 0 <= there.p <= 1
    assert -1 - 1e-9 <= there.low <= there.change <= there.high <= 1 + 1e-9
    assert there.p == pytest.approx(back.p, abs=1e-9)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-9)


def test_without_a_difference_it_is_rarely_seen():
    draw = random.Random(20_261_129)
    rejected = {"means": 0, "shares": 0, "rare": 0}
    for _ in range(400):
        one, other = ([draw.gauss(0, 1) for _ in range(n)] for n in (30, 90))
        rejected["means"] += welch(moments(one), moments(other)).p < 0.05
        for name, likely in (("shares", 0.4), ("rare", 0.02)):
            hits, others = (sum(draw.random() < likely for _ in range(n)) for n in (60, 200))
            rejected[name] += proportions(hits, 60, others, 200).p < 0.05
    # 20 of 400 are to be expected; Fisher's test errs to the safe side.
    assert 8 <= rejected["means"] <= 34
    assert 8 <= rejected["shares"] <= 34
    assert rejected["rare"] <= 20


def test_holm_raises_p_values_by_their_rank():
    # Holm 1979, as in R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm").
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=20))
def test_raised_p_values_keep_their_order(chances: list[float]):
    raised = holm(chances)
    assert all(p <= q <= min(1, p * len(chances)) for p, q in zip(chances, raised, strict=True))
    assert sorted(raised) == [raised[n] for n in sorted(range(len(chances)), key=lambda n: chances[n])]
