"""What is written when a run ends. Pure: changes for the journal."""

from collections.abc import Iterable, Sequence
from typing import Any

from coordinator.keys import index_of, step_of
from coordinator.retry import AGENT_LOST
from coordinator.store.records import Change, EventDraft, RunChange, RunRecord, StepChange, ThreadChange
from manta.errors import RunCancelled
from manta.ids import StepKey
from manta.messages import Usage, to_json

DEAD_LETTER = "dead_letter"
"""The reason of a run that keeps killing who works on it; `manta resume` lets it try again."""


def success(record: RunRecord, output: Any, spent: Usage) -> list[Change]:
    end: list[Change] = [
        RunChange("success", output=output),
        EventDraft("run_done", data={"usage": to_json(spent)}),
    ]
    return [_told(record, output), *end] if record.thread is not None else end


def failure(error: dict[str, Any], *, late: bool) -> list[Change]:
    reason = (
        "deadline" if late else DEAD_LETTER if error["code"] in (AGENT_LOST, DEAD_LETTER) else error["code"]
    )
    change = RunChange("timeout" if late else "error", reason=reason, error=error)
    return [change, EventDraft("run_failed", data={"error": error})]


def cancelled() -> list[Change]:
    return [RunChange("interrupted", reason="cancelled"), EventDraft("run_cancelled")]


def stopped(steps: Iterable[tuple[StepKey, int]], cause: str) -> list[Change]:
    """For executions that were under way when the run ended."""
    reason = RunCancelled(f"stopped with its run: {cause}").to_json()
    return [
        StepChange(key, step_of(key), index_of(key), "failed", attempt, error=reason)
        for key, attempt in steps
    ]


def _told(record: RunRecord, output: Any) -> ThreadChange:
    """The run's question and answer, as its thread remembers them."""
    assert record.thread is not None
    asked = record.input.get("messages") if isinstance(record.input, dict) else None
    values = dict(output) if isinstance(output, dict) else {"output": output}
    answered = values.pop("messages", None)
    return ThreadChange(record.thread, values, (*_messages(asked), *_messages(answered)))


def _messages(value: Any) -> Sequence[dict[str, Any]]:
    if not isinstance(value, list):
        return ()
    return [message for message in value if isinstance(message, dict) and "role" in message]
