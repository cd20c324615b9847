"""Times of cron expressions: in time zones, over both changes of the clocks, with times that were missed."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.schedules import due_time, next_time, normalised, run_key
from manta.errors import InvalidInput

BERLIN = "Europe/Berlin"
DAY_S = 86_400


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def times(cron: str, zone: str, after: float, count: int) -> list[str]:
    told = []
    for _ in range(count):
        after = next_time(cron, zone, after)
        told.append(datetime.fromtimestamp(after, ZoneInfo(zone)).strftime("%m-%d %H:%M%z"))
    return told


def test_times_follow_the_expression_in_its_zone():
    start = at("2026-11-20T12:00", BERLIN)
    assert times("30 7 * * MON-FRI", BERLIN, start, 3) == [
        "11-23 07:30+0100",
        "11-24 07:30+0100",
        "11-25 07:30+0100",
    ]
    assert times("0 0 L * *", "Asia/Tokyo", start, 2) == ["11-30 00:00+0900", "12-31 00:00+0900"]


def test_the_next_time_is_later_than_now():
    assert next_time("0 12 * * *", "UTC", at("2026-01-01T12:00")) == at("2026-01-02T12:00")
    assert next_time("0 12 * * *", "UTC", at("2026-01-01T12:00") - 0.25) == at("2026-01-01T12:00")


def test_a_fixed_time_that_the_clocks_skip_comes_after_the_gap():
    assert times("30 2 * * *", BERLIN, at("2026-03-28T12:00", BERLIN), 2) == [
        "03-29 03:00+0200",
        "03-30 02:30+0200",
    ]


def test_a_fixed_time_that_the_clocks_repeat_comes_once():
    assert times("30 2 * * *", BERLIN, at("2026-10-24T12:00", BERLIN), 2) == [
        "10-25 02:30+0200",
        "10-26 02:30+0100",
    ]
    # Asked in the second of the two hours, the first one's time does not come again.
    later = at("2026-10-25T02:15", BERLIN, fold=1)
    assert times("30 2 * * *", BERLIN, later, 1) == ["10-26 02:30+0100"]


def test_every_half_hour_goes_on_in_both_hours():
    start = at("2026-10-25T01:45", BERLIN)
    assert times("*/30 * * * *", BERLIN, start, 5) == [
        "10-25 02:00+0200", "10-25 02:30+0200", "10-25 02:00+0100", "10-25 02:30+0100", "10-25 03:00+0100",
    ]  # fmt: skip


def test_of_missed_times_the_latest_is_due():
    first = at("2026-01-01T06:00")
    assert due_time("0 6 * * *", "UTC", first, first) == first
    assert due_time("0 6 * * *", "UTC", first, at("2026-01-09T05:59")) == at("2026-01-08T06:00")
    assert due_time("0 6 * * *", "UTC", first, at("2026-01-09T06:00")) == at("2026-01-09T06:00")


def test_a_minute_of_years_ago_is_found_at_once():
    now = at("2026-01-01T00:00:30")
    assert due_time("* * * * *", "UTC", now - 3 * 365 * DAY_S, now) == now - 30


def test_a_time_missed_in_the_repeated_hour_is_found():
    days_before = next_time("45 2 * * *", BERLIN, at("2026-10-22T12:00", BERLIN))
    now = at("2026-10-25T02:10", BERLIN, fold=1)
    assert due_time("45 2 * * *", BERLIN, days_before, now) == at("2026-10-25T02:45", BERLIN, fold=0)


crons = st.one_of(
    st.sampled_from(
        ["*/7 * * * *", "0 */3 * * *", "15 2 * * *", "0 0 1,15 * 1", "59 23 L * *", "30 1-3 * * SUN#1"]
    ),
    st.builds("{} {} * * *".format, st.integers(0, 59), st.integers(0, 4)),
)
zones = st.sampled_from(
    ["UTC", BERLIN, "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Cairo"]
)


@given(crons, zones, st.integers(0, 3 * 365 * 24 * 60), st.integers(0, 5 * 24 * 3600))
def test_what_is_due_is_the_last_time_that_came(cron: str, zone: str, minute: int, late_s: int):
    start = datetime(2024, 1, 1, tzinfo=UTC).timestamp() + minute * 60
    first = next_time(cron, zone, start)
    now = first + late_s
    # Whatever shortcut is taken, it is what going through all of them gives.
    expected, upcoming = first, next_time(cron, zone, first)
    while upcoming <= now:
        expected, upcoming = upcoming, next_time(cron, zone, upcoming)
    assert due_time(cron, zone, first, now) == expected
    assert next_time(cron, zone, now) > now


@pytest.mark.parametrize(
    "cron",
    [
        "",
        "* * * *",
        "* * * * * *",
        "@daily",
        "61 * * * *",
        "a b c d e",
        "0 0 30 2 *",
        "² * * * *",
        "*/0 * * * *",
        "9" * 300,
    ],
)
def test_what_is_no_cron_expression_is_refused(cron: str):
    with pytest.raises(InvalidInput) as refused:
        next_time(cron, "UTC", 0)
    assert "MON-FRI" in refused.value.fix


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_text_is_an_expression_or_refused(cron: str, zone: str):
    try:
        assert next_time(cron, zone, 1e9) > 1e9
    except InvalidInput:
        return


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "Europe", "../etc/passwd", "/etc/passwd", "a\0b"])
def test_what_is_no_time_zone_is_refused(zone: str):
    with pytest.raises(InvalidInput, match="time zone"):
        next_time("* * * * *", zone, 0)


def test_spaces_do_not_matter():
    assert normalised(" 0  6 *\t* 1 ") == "0 6 * * 1"


def test_a_time_has_one_key():
    moment = at("2026-01-01T06:00")
    assert run_key("s", moment) == run_key("s", moment + 0.4) == f"schedule:s:{int(moment)}"
    assert run_key("s", moment) != run_key("s", moment + timedelta(minutes=1).total_seconds())
