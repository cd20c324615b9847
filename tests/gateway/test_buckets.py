"""Buckets and budgets: what may go out in any time, and how long to wait for the rest."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.store.key_records import KeyLimits, Spent
from manta.usage import Budget
from serve_app.gateway.access.accounts import duration
from serve_app.gateway.access.buckets import Bucket, Rate, Wait
from serve_app.gateway.access.budgets import Over, over, remaining

RATES = st.builds(Rate, st.integers(1, 1000).map(float), st.floats(0.01, 100))
STEPS = st.lists(
    st.tuples(
        st.floats(0, 30),
        st.integers(1, 400),
        # The part of what was taken that is used in truth.
        st.floats(0, 1),
    ),
    max_size=40,
)


@given(RATES, STEPS)
def test_no_more_goes_out_than_the_bucket_and_what_flows_in(rate: Rate, steps: list):
    bucket, now = Bucket.full(rate, 0.0), 0.0
    went: list[tuple[float, float]] = []
    for pause, amount, part in steps:
        now += pause
        taken = bucket.take(rate, amount, now)
        if isinstance(taken, Wait):
            assert taken.seconds > 0
            continue
        bucket = taken.settle(rate, amount, amount * part, now)
        went.append((now, amount * part))
        for since in {at for at, _ in went}:
            total = sum(used for at, used in went if at >= since)
            assert total <= rate.capacity + rate.per_s * (now - since) + 1e-6 * (1 + total)


@given(RATES, STEPS, st.integers(1, 400))
def test_what_one_is_told_to_wait_is_enough_and_not_too_long(rate: Rate, steps: list, amount: int):
    bucket, now = Bucket.full(rate, 0.0), 0.0
    for pause, other, _ in steps:
        now += pause
        taken = bucket.take(rate, other, now)
        bucket = bucket if isinstance(taken, Wait) else taken
    wait = bucket.take(rate, amount, now)
    if not isinstance(wait, Wait):
        return
    if amount > rate.capacity:
        assert wait.seconds == math.inf
        return
    assert isinstance(bucket.take(rate, amount, now + wait.seconds + 1e-6 * (1 + wait.seconds)), Bucket)
    if wait.seconds > 0.01:
        assert isinstance(bucket.take(rate, amount, now + wait.seconds * 0.9), Wait)


def test_what_was_used_beyond_is_owed():
    rate = Rate.a_minute(60)
    taken = Bucket.full(rate, 0.0).take(rate, 50, 0.0)
    assert isinstance(taken, Bucket)
    owing = taken.settle(rate, 50, 90, 0.0)
    assert owing.level == -30
    assert owing.take(rate, 1, 30.0) == Wait(1.0)
    assert owing.full_in(rate, 0.0) == 90
    assert owing.seen(rate, 1000.0).level == 60


def test_a_clock_that_goes_back_gives_nothing():
    rate = Rate.a_minute(60)
    empty = Bucket.full(rate, 100.0).take(rate, 60, 100.0)
    assert isinstance(empty, Bucket)
    assert empty.seen(rate, 50.0) == empty
    assert isinstance(empty.take(rate, 1, 50.0), Wait)


NOW = datetime(2026, 11, 30, 23, 0, tzinfo=UTC).timestamp()
HOUR = 3600.0


@pytest.mark.parametrize(
    ("limits", "asked", "found"),
    [
        (KeyLimits(), Spent(10**9, 10**9), None),
        (KeyLimits(tokens_per_day=100), Spent(60), None),
        (KeyLimits(tokens_per_day=100), Spent(61), Over("tokens", "day", 100, 60, HOUR)),
        (KeyLimits(tokens_per_day=40), Spent(), Over("tokens", "day", 40, 0, HOUR)),
        (KeyLimits(tokens_per_month=500), Spent(60), None),
        (KeyLimits(tokens_per_month=500), Spent(61), Over("tokens", "month", 500, 60, HOUR)),
        (KeyLimits(money_per_day=1.5), Spent(0, 500_000), None),
        (KeyLimits(money_per_day=1.5), Spent(0, 500_001), Over("money", "day", 1.5, 0.5, HOUR)),
        (KeyLimits(tokens_per_day=100, money_per_month=2), Spent(1), Over("money", "month", 2, 0, HOUR)),
    ],
)
def test_budgets(limits: KeyLimits, asked: Spent, found: Over | None):
    assert over(limits, Spent(40, 1_000_000), Spent(440, 2_000_000), asked, NOW) == found


@pytest.mark.parametrize(
    ("moment", "day_s", "month_s"),
    [
        (datetime(2026, 2, 1, tzinfo=UTC), 86400, 28 * 86400),
        (datetime(2026, 12, 31, 12, tzinfo=UTC), 43200, 43200),
        (datetime(2028, 2, 29, tzinfo=UTC), 86400, 86400),
    ],
)
def test_periods_end_with_the_day_and_the_month(moment: datetime, day_s: float, month_s: float):
    now = moment.timestamp()
    for limits, seconds in ((KeyLimits(tokens_per_day=1), day_s), (KeyLimits(tokens_per_month=1), month_s)):
        found = over(limits, Spent(1), Spent(1), Spent(1), now)
        assert found is not None
        assert found.seconds == seconds


def test_what_is_left_for_a_run():
    assert remaining(KeyLimits(requests_per_minute=5), Spent(9), Spent(9)) is None
    limits = KeyLimits(tokens_per_day=100, tokens_per_month=120, money_per_month=3)
    assert remaining(limits, Spent(10), Spent(50, 1_000_000)) == Budget(tokens=70, money=2.0)
    assert remaining(limits, Spent(200), Spent(200)) == Budget(tokens=0, money=3.0)


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0ms"), (0.12, "120ms"), (6.5, "6.5s"), (60, "1m0s"), (122.4, "2m3s")]
)
def test_times_are_told_as_openai_does(seconds: float, told: str):
    assert duration(seconds) == told
