"""What a person's answer, or the lack of one, means for a run."""

import pytest

from coordinator import answers
from coordinator.store.records import CallSettled, Decision, DecisionTaken, EventDraft
from manta.ids import StepKey
from manta.messages import TaskResult

ASKED = {"reason": "approval", "question": "publish?", "show": {"text": "hi"}, "editable": True}
UNKNOWN = {"reason": "outcome_unknown", "question": "?", "call": "tool:abc:0", "expires_at": None}


def decision(action, value=None, comment=""):
    return Decision(3, StepKey("ok"), action, value, comment, "ann", 1.0)


def test_an_approval_gets_a_moment_to_expire():
    assert answers.waiting({**ASKED, "timeout_s": 60}, 1000.0) == {**ASKED, "expires_at": 1060.0}
    assert answers.waiting({**ASKED, "timeout_s": None}, 1000.0) == {**ASKED, "expires_at": None}


def test_approved_is_what_was_shown():
    taken = answers.take(decision("approve", comment="fine"), ASKED)
    assert taken.result == TaskResult(
        output={"decision": "approved", "value": {"text": "hi"}, "comment": "fine", "by": "ann"}
    )
    facts = {"action": "approve", "by": "ann", "comment": "fine"}
    assert taken.changes == (DecisionTaken(3), EventDraft("step_decided", StepKey("ok"), facts))


def test_edited_is_what_was_given():
    taken = answers.take(decision("edit", {"text": "ho"}), ASKED)
    assert taken.result is not None
    assert taken.result.output["value"] == {"text": "ho"}
    assert taken.result.output["decision"] == "edited"


@pytest.mark.parametrize("held", [ASKED, UNKNOWN])
def test_rejected_fails_the_step(held):
    taken = answers.take(decision("reject", comment="no"), held)
    assert taken.result is not None
    assert taken.result.error is not None
    assert (taken.result.error["code"], taken.result.error["retryable"]) == ("rejected", False)
    assert "ann" in taken.result.error["message"]


def test_a_call_of_unknown_outcome_is_made_again_or_has_its_result():
    again = answers.take(decision("retry"), UNKNOWN)
    assert again.result is None
    assert again.changes[-1] == CallSettled(StepKey("ok"), "tool:abc:0", None)
    known = answers.take(decision("resolve", 42), UNKNOWN)
    assert known.result is None
    assert known.changes[-1] == CallSettled(StepKey("ok"), "tool:abc:0", {"result": 42})


def test_a_decision_that_nothing_waits_for_is_only_put_away():
    assert answers.take(decision("approve"), None) == answers.Taken((DecisionTaken(3),), None)


def test_time_runs_out_for_those_that_expire():
    moments = {StepKey("a"): 5.0, StepKey("b"): 6.0}
    assert answers.expired(moments, 4.9) == []
    assert answers.expired(moments, 5.0) == ["a"]
    error = answers.timed_out(ASKED).error
    assert error is not None
    assert (error["code"], error["retryable"]) == ("approval_timeout", False)
