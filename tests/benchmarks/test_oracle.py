"""The oracle finds what it is there to find: a verdict that could not be bad would prove nothing."""

from dataclasses import replace

import pytest

from benchmarks.oracle import Expected, Trace, verdict, violations

EXPECTED = Expected(steps=2, in_flight=1, kills=1)
EVENTS = (
    (1, "run_started", None),
    (2, "step_started", "s0"),
    (3, "step_done", "s0"),
    (4, "step_started", "s1"),
    (5, "step_done", "s1"),
    (6, "run_done", None),
)
GOOD = Trace("r", "success", {"n": 2}, (("s0", "done", {"n": 1}), ("s1", "done", {"n": 2})), EVENTS)
LEDGER = [{"run": "r", "step": "s0"}, {"run": "r", "step": "s1"}]


def found(trace: Trace = GOOD, ledger: list[dict[str, str]] = LEDGER, acknowledged: tuple[str, ...] = ("r",)):
    return violations(acknowledged, {"r": trace}, ledger, EXPECTED)


def test_a_whole_run_is_in_order():
    assert found() == []
    assert "nothing lost" in verdict(found())


def test_what_was_in_flight_may_have_run_again():
    assert found(ledger=[*LEDGER, LEDGER[1]]) == []


def test_an_acknowledged_run_that_is_gone():
    assert found(acknowledged=("r", "other")) == ["run other was acknowledged and is gone"]


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        (replace(GOOD, status="error"), "ended as error"),
        (replace(GOOD, output=None), "output"),
        (replace(GOOD, steps=GOOD.steps[:1]), "its steps are"),
        (replace(GOOD, steps=(GOOD.steps[0], ("s1", "started", None))), "its steps are"),
        (replace(GOOD, events=(*EVENTS[:3], *EVENTS[4:])), "numbered"),
        (replace(GOOD, events=(*EVENTS, (7, "step_started", "s1"))), "ended at events"),
        (replace(GOOD, events=(*EVENTS[:5], (6, "step_done", "s1"), (7, "run_done", None))), "done as often"),
        (replace(GOOD, events=(*EVENTS[:4], (5, "run_done", None))), "with a result"),
        (replace(GOOD, events=EVENTS[:5]), "ended at events"),
    ],
)
def test_a_broken_run(broken, word):
    assert any(word in each for each in found(broken))


@pytest.mark.parametrize(
    ("ledger", "word"),
    [
        (LEDGER[:1], "left no side effect"),
        ([*LEDGER, LEDGER[1], LEDGER[1]], "ran 3 times"),
        ([*LEDGER, *LEDGER], "2 steps ran again"),
    ],
)
def test_side_effects_lost_or_repeated_too_often(ledger, word):
    assert any(word in each for each in found(ledger=ledger))


def test_the_verdict_counts_what_it_does_not_show():
    text = verdict([f"violation {number}" for number in range(12)])
    assert text.startswith("12 violations")
    assert "and 2 more" in text
