"""The breaker against a plain model of it: a list of all that ended, counted anew each time."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from manta.clock import ManualClock
from manta.errors import Unavailable
from serve_app.models.calls.breaker import SLOTS, Breaker, BreakerRules, Circuit, admit, ended

RULES = BreakerRules(failures=3, share=0.5, window_s=20.0, pause_s=7.0)
SLOT_S = RULES.window_s / SLOTS


class AnyCalls(RuleBasedStateMachine):
    """Calls begin and end in any order while time goes by."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.circuit = Circuit()
        self.out: list[int] = []
        self.history: list[tuple[float, bool]] = []
        self.closed_since = 0
        self.opened_at: float | None = None
        self.probes: list[float] = []

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5, 7.0, 40.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def one_begins(self) -> None:
        was_open = self.circuit.state != "closed"
        self.circuit, ticket = admit(RULES, self.circuit, self.now)
        if not was_open:
            assert ticket == 0
        if ticket is None:
            quiet_since = self.probes[-1] if self.circuit.state == "half_open" else self.opened_at
            assert quiet_since is not None
            assert self.now - quiet_since < RULES.pause_s
            return
        if was_open:
            assert self.opened_at is not None
            assert self.now - self.opened_at >= RULES.pause_s
            self.probes.append(self.now)
        self.out.append(ticket)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), outcome=st.sampled_from(["answered", "failed", "failed", "neither"]))
    def one_ends(self, data: st.DataObject, outcome: str) -> None:
        ticket = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        before = self.circuit
        self.circuit = ended(RULES, before, self.now, ticket, outcome)
        if before.state == "closed":
            self._ended_while_closed(outcome)
        elif before.state == "open" or ticket != before.probe:
            assert self.circuit == before
        else:
            expected = {"answered": "closed", "failed": "open", "neither": "open"}
            assert self.circuit.state == expected[outcome]
            if outcome == "answered":
                self.history = []
            if outcome == "failed":
                self.opened_at = self.now

    def _ended_while_closed(self, outcome: str) -> None:
        if outcome != "neither":
            self.history.append((self.now, outcome == "failed"))
        slot = self.now // SLOT_S
        recent = [failed for when, failed in self.history if when // SLOT_S > slot - SLOTS]
        opens = outcome == "failed" and sum(recent) >= 3 and sum(recent) * 2 >= len(recent)
        assert (self.circuit.state == "open") == opens
        if opens:
            self.opened_at = self.now

    @invariant()
    def little_is_kept(self) -> None:
        assert len(self.circuit.tallies) <= SLOTS

    @invariant()
    def probes_keep_their_distance(self) -> None:
        # A probe that had neither outcome may be followed at once, one that is out only after the pause.
        if self.circuit.state == "half_open":
            assert self.circuit.probe_since == self.probes[-1]


AnyCalls.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_any_calls = AnyCalls.TestCase


def failed(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.leave(breaker.enter(), "failed")


async def test_an_open_one_refuses_and_says_for_how_long():
    clock = ManualClock()
    breaker = Breaker("big", RULES, clock)
    failed(breaker, 3)
    await clock.advance(2)
    with pytest.raises(Unavailable) as refused:
        breaker.enter()
    assert refused.value.code == "model_unavailable"
    assert refused.value.retry_after_s == 5
    await clock.advance(5)
    probe = breaker.enter()
    assert breaker.state == "half_open"
    with pytest.raises(Unavailable):
        breaker.enter()
    breaker.leave(probe, "answered")
    assert breaker.state == "closed"
    failed(breaker, 2)
    assert breaker.state == "closed"


async def test_a_probe_that_never_ends_does_not_hold_it_for_ever():
    clock = ManualClock()
    breaker = Breaker("big", RULES, clock)
    failed(breaker, 3)
    await clock.advance(7)
    lost = breaker.enter()
    await clock.advance(7)
    second = breaker.enter()
    breaker.leave(lost, "failed")
    assert breaker.state == "half_open"
    breaker.leave(second, "answered")
    assert breaker.state == "closed"


def test_few_failures_among_many_calls_leave_it_closed():
    breaker = Breaker("big", RULES, ManualClock())
    for _ in range(20):
        breaker.leave(breaker.enter(), "answered")
    failed(breaker, 10)
    assert breaker.state == "closed"


def test_it_can_be_off():
    breaker = Breaker("big", BreakerRules(failures=0), ManualClock())
    failed(breaker, 100)
    assert breaker.state == "closed"
