"""What waits for a person, and what a person's answer means for the run. Pure, but for reading a thread."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coordinator.store.journal import Journal
from coordinator.store.records import CallSettled, Change, Decision, DecisionTaken, EventDraft
from manta.errors import Rejected, StepTimeout
from manta.ids import StepKey, Tenant, ThreadId
from manta.messages import TaskResult, to_json

_WORDS = {"approve": "approved", "edit": "edited"}


@dataclass(frozen=True, slots=True)
class Taken:
    """What follows from a decision: `changes`, and the step's result, or None if the step is to run again."""

    changes: tuple[Change, ...]
    result: TaskResult | None


def waiting(asked: Mapping[str, Any], now: float) -> dict[str, Any]:
    """An approval as it is journaled; its time-out becomes a moment, `expires_at`."""
    rest = dict(asked)
    timeout = rest.pop("timeout_s", None)
    return {**rest, "expires_at": None if timeout is None else now + float(timeout)}


def unknown_call(result: TaskResult) -> dict[str, Any]:
    """A call that may or may not have taken effect, for a person to find out."""
    error = result.error or {}
    question = f"{error.get('message', 'a call has no outcome')}. Did it take effect?"
    return {
        "reason": "outcome_unknown",
        "question": question,
        "call": result.unknown_call,
        "expires_at": None,
    }


def take(decision: Decision, held: Mapping[str, Any] | None) -> Taken:
    """What a decision on a waiting step comes to. One on a step that no longer waits changes nothing."""
    taken: tuple[Change, ...] = (DecisionTaken(decision.number),)
    if held is None:
        return Taken(taken, None)
    facts = {"action": decision.action, "by": decision.by, "comment": decision.comment}
    taken = (*taken, EventDraft("step_decided", decision.step, facts))
    match decision.action:
        case "reject":
            cause = f"rejected by {decision.by}" + (f": {decision.comment}" if decision.comment else "")
            return Taken(taken, TaskResult(error=Rejected(cause).to_json()))
        case "retry" | "resolve":
            response = {"result": decision.value} if decision.action == "resolve" else None
            return Taken((*taken, CallSettled(decision.step, str(held["call"]), response)), None)
        case _:
            value = decision.value if decision.action == "edit" else held.get("show")
            output = {
                "decision": _WORDS[decision.action],
                "value": to_json(value),
                "comment": decision.comment,
                "by": decision.by,
            }
            return Taken(taken, TaskResult(output=output))


def expired(moments: Mapping[StepKey, float], now: float) -> list[StepKey]:
    """Those whose moment has come; both are monotonic."""
    return [key for key, moment in moments.items() if moment <= now]


def timed_out(held: Mapping[str, Any]) -> TaskResult:
    error = StepTimeout(
        f"nobody answered in time: {held.get('question', '')}", fix="resume the run", code="approval_timeout"
    )
    error.retryable = False
    return TaskResult(error=error.to_json())


async def thread_scope(journal: Journal, tenant: Tenant, thread: ThreadId) -> dict[str, Any]:
    """What references see as `thread`."""
    state = await journal.threads.state(tenant, thread)
    if state is None:
        return {"id": thread, "messages": [], "values": {}}
    return {"id": thread, "messages": list(state.messages), "values": state.values}
