"""Pauses before another try: they grow, are cut, keep to what was told and to the deadline."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.errors import InvalidInput, ModelError, RemoteModelError, ReplicaLost, Unavailable
from manta.ids import RunId
from serve_app.models.calls.retry import RetryRules, pause_s
from tests.models.support import OwnTime, Told, ask, link, resilient, text_of

SEVERAL = RetryRules(attempts=9, first_delay_s=1.0, factor=3.0, max_delay_s=20.0, jitter=0.0)


def test_pauses_grow_up_to_the_longest_and_end_with_the_attempts():
    assert [pause_s(SEVERAL, attempt, 0.5) for attempt in (1, 2, 3, 4, 8)] == [1, 3, 9, 20, 20]
    assert pause_s(SEVERAL, 9, 0.5) is None


@given(
    attempt=st.integers(1, 19),
    draw=st.floats(0, 1, exclude_max=True),
    told=st.none() | st.floats(0, 30),
    left=st.none() | st.floats(-5, 30),
    jitter=st.floats(0, 1),
)
def test_no_pause_is_longer_than_the_longest_shorter_than_told_or_past_the_deadline(
    attempt: int, draw: float, told: float | None, left: float | None, jitter: float
):
    rules = RetryRules(attempts=20, first_delay_s=0.5, factor=2.0, max_delay_s=8.0, jitter=jitter)
    pause = pause_s(rules, attempt, draw, told_s=told, left_s=left)
    if pause is None:
        assert (told or 0) > 8 or (left is not None and left <= 8)
        return
    grown = min(8.0, 0.5 * 2.0 ** (attempt - 1))
    assert grown * (1 - jitter) <= pause <= max(grown, told or 0)
    assert pause <= 8
    assert pause >= (told or 0)
    assert left is None or pause < left


async def test_what_may_pass_is_tried_again_until_it_answers():
    clock, model = OwnTime(), Told(RemoteModelError("busy"), ReplicaLost("gone"), "all well")
    made = resilient(clock, link("a", model, clock))
    assert await text_of(made) == "all well"
    assert clock.pauses == [1, 2]
    assert made.calls() == {
        "asked": 1,
        "retried": 2,
        "failed": 0,
        "answered_by": {"a": 1},
        "breaker": "closed",
    }


async def test_the_last_error_comes_out_after_the_attempts():
    clock, model = OwnTime(), Told(ModelError("one"), ModelError("two"), ModelError("three"))
    made = resilient(clock, link("a", model, clock))
    with pytest.raises(ModelError, match="three"):
        await text_of(made)
    assert model.asked == 3
    assert made.calls()["failed"] == 1


@pytest.mark.parametrize(
    "error", [InvalidInput("wrong"), Unavailable("full", code="overloaded")], ids=lambda error: error.code
)
async def test_what_the_caller_must_mend_and_a_full_queue_are_told_at_once(error: Exception):
    clock, model = OwnTime(), Told(error)
    with pytest.raises(type(error)):
        await text_of(resilient(clock, link("a", model, clock)))
    assert model.asked == 1


async def test_no_try_follows_the_first_chunk():
    clock, model = OwnTime(), Told(("half of", ModelError("gone")), "never heard")
    chunks = resilient(clock, link("a", model, clock)).stream(ask())
    assert [(await anext(chunks)).text for _ in range(2)] == ["half", "of"]
    with pytest.raises(ModelError, match="gone"):
        await anext(chunks)
    assert model.asked == 1


async def test_a_pause_that_was_told_is_kept_and_too_long_a_one_is_not_waited_for():
    short, long = RemoteModelError("busy"), RemoteModelError("busy")
    short.retry_after_s, long.retry_after_s = 5.0, 60.0
    clock, model = OwnTime(), Told(short, long, "too late")
    with pytest.raises(RemoteModelError):
        await text_of(resilient(clock, link("a", model, clock)))
    assert clock.pauses == [5]


async def test_no_try_begins_after_the_deadline():
    clock, model = OwnTime(), Told(ModelError("busy"))
    with pytest.raises(ModelError):
        await text_of(resilient(clock, link("a", model, clock)), ask(deadline=clock.now() + 2.5))
    assert clock.pauses == [1]
    assert model.asked == 2


async def test_the_call_of_a_run_is_left_to_its_agent_to_repeat():
    clock, model = OwnTime(), Told(ModelError("busy"))
    with pytest.raises(ModelError):
        await text_of(resilient(clock, link("a", model, clock)), ask(run=RunId("r")))
    assert model.asked == 1
