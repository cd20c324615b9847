"""The oracle finds what it is there to find: a verdict that could not be bad would prove nothing."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.faults.oracle import Call, Story, violations

EVENTS = ((1, "run_started", None), (2, "step_started", "s"), (3, "step_done", "s"), (4, "run_done", None))
MADE = Call(("r", "s", "h"), "pay", False, "done", False, 1, 10.0, 20.0)
SEARCHED = Call(("r", "s", "i"), "search", True, "done", False, 1, 10.0, 20.0)
STORY = Story(
    run="r",
    tenant="acme",
    status="success",
    epoch=1,
    held={"open_calls": 0},
    used={"tool_calls": 2},
    steps=[("s", "done")],
    events=EVENTS,
    cancelled_at=None,
    calls=[MADE, SEARCHED],
    called={"tool_calls": 2},
    texts=["words of acme"],
)
OTHER = replace(STORY, run="q", tenant="globex", calls=[], used={}, called={}, texts=["words of globex"])


def line(hash_: str, at: float = 15.0, **more: Any) -> dict[str, Any]:
    made = {"kind": "call", "name": hash_, "run": "r", "step": "s", "hash": hash_, "at": at, "epoch": 1}
    return {**made, **more}


LEDGER = [line("h"), line("i"), {"kind": "stumbled", "run": "elsewhere"}]


def found(
    story: Story = STORY,
    ledger: list[dict[str, Any]] = LEDGER,
    acknowledged: Any = (("acme", "r"),),
    **more: Any,
) -> list[str]:
    return violations([story, OTHER], acknowledged, ledger, **more)


def test_a_whole_run_is_in_order():
    assert found(in_flight=[]) == []


def test_an_acknowledged_run_that_is_gone():
    assert found(acknowledged=[("acme", "gone")]) == ["run gone of acme was acknowledged and is gone"]
    # Another tenant's is not it.
    assert len(found(acknowledged=[("globex", "r")])) == 1


def test_a_run_that_only_the_ledger_knows():
    assert found(ledger=[*LEDGER, line("h", run="lost")]) == [
        "run lost has side effects and is not in the journal"
    ]


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        ({"status": "running"}, "did not end"),
        ({"steps": [("s", "started")]}, "still at work"),
        ({"held": {"open_calls": 1}}, "still holds"),
        ({"used": {"tool_calls": 1}}, "has used"),
        ({"steps": [("t", "done")]}, "told to be done"),
        ({"events": EVENTS[1:]}, "numbered"),
        ({"events": (*EVENTS, (5, "step_started", "s"))}, "ended at events"),
        ({"events": (*EVENTS[:3], (4, "step_done", "s"), (5, "run_done", None))}, "done as often"),
        ({"calls": [MADE]}, "is not journaled"),
        ({"calls": [replace(MADE, state="intent"), SEARCHED]}, "still open"),
        ({"texts": ["words of globex"]}, "has words of globex"),
        ({"cancelled_at": 14.0, "status": "interrupted"}, "after the cancel"),
    ],
)
def test_a_broken_run(broken: Mapping[str, Any], word: str):
    assert any(word in each for each in found(replace(STORY, **broken)))


def test_a_run_that_was_resumed_goes_on_after_its_end():
    resumed = (*EVENTS[:3], (4, "run_failed", None), (5, "run_resumed", None), (6, "run_done", None))
    assert found(replace(STORY, events=resumed)) == []


@pytest.mark.parametrize(
    ("ledger", "word"),
    [
        ([line("i")], "was never made"),
        ([*LEDGER, line("h", 12.0)], "made 2 times, 1 are allowed"),
        ([*LEDGER, line("i", 12.0)], "made 2 times, 1 are allowed"),
        ([*LEDGER, line("i", 21.0)], "after its outcome was committed"),
        ([line("h", tenant="globex"), line("i")], "worked for globex"),
    ],
)
def test_calls_lost_repeated_or_made_for_others(ledger: list[dict[str, Any]], word: str):
    assert any(word in each for each in found(ledger=ledger, in_flight=[]))


def test_what_was_in_flight_may_be_made_again_if_it_may_be_repeated_at_all():
    twice = [line("h", 12.0), line("i", 12.0), *LEDGER]
    told = found(ledger=twice, in_flight=[SEARCHED.request, MADE.request])
    assert told == ["run r of acme: pay of step s was made 2 times, 1 are allowed"]


def test_only_what_a_zombie_had_begun_is_forgiven():
    taken_over = replace(STORY, epoch=2, calls=[replace(MADE, epoch=2), SEARCHED])
    late = [line("h", epoch=2), line("h", 25.0), line("i")]
    assert found(taken_over, late, zombies=True) == []
    assert len(found(taken_over, late)) == 2
    # Before the other claim had begun it, it was a call like any other.
    assert len(found(taken_over, [line("h", 5.0), *late], zombies=True)) == 1
