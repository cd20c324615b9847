"""Records in the shapes of the Agent Protocol; what Manta adds is in extension fields."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from coordinator.store.records import RunRecord, RunStatus, StepRecord
from manta.messages import Budget, Usage
from serve_app.gateway.body_types import Status

Uuid = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
Stamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
_STATUSES: dict[str, Status] = {"running": "pending", "waiting": "interrupted"}
"""What the protocol has no word for."""


class WaitingJson(TypedDict):
    """A step execution that waits for a person. Times are seconds since the epoch."""

    step: str
    reason: str
    question: str
    show: Any
    editable: bool
    since: float | None
    expires_at: float | None
    call: NotRequired[str]


class StepJson(TypedDict):
    """A step execution as of its latest attempt, without what went in and came out."""

    key: str
    step: str
    index: int | None
    state: str
    attempt: int
    agent: str | None
    error: dict[str, Any] | None
    usage: Usage
    started_at: float | None
    finished_at: float | None


class RunJson(TypedDict):
    """The protocol's `Run`. `state` is the journal's own status; `reason` says why a run has that status."""

    run_id: Uuid
    agent_id: str
    status: Status
    metadata: dict[str, Any]
    input: Any
    created_at: Stamp
    updated_at: Stamp
    thread_id: NotRequired[Uuid]
    webhook: NotRequired[str]
    state: RunStatus
    reason: str | None
    error: dict[str, Any] | None
    graph_version: str
    usage: Usage
    budget: Budget | None
    priority: int
    deadline: float | None
    forked_from: str | None
    steps: NotRequired[list[StepJson]]
    waiting: NotRequired[list[WaitingJson]]


class RunWaitJson(TypedDict):
    """The protocol's `RunWaitResponse`."""

    run: RunJson
    values: dict[str, Any]
    messages: list[dict[str, Any]]


class ApprovalJson(WaitingJson):
    """A step that waits, and its run."""

    run_id: Uuid
    agent_id: str
    thread_id: str | None
    metadata: dict[str, Any]


class CallJson(TypedDict):
    """A recorded model or tool call. `request` and `response` are there when the whole record was asked for."""

    step: str
    attempt: int
    key: str
    kind: str
    name: str
    state: str
    usage: Usage
    error: dict[str, Any] | None
    request: NotRequired[dict[str, Any] | None]
    response: NotRequired[dict[str, Any] | None]


def run_json(record: RunRecord) -> RunJson:
    """A run as the protocol has it: `running` is its `pending`, and `waiting` its `interrupted`."""
    shown: RunJson = {
        "run_id": record.id,
        "agent_id": record.graph_name,
        "status": status_of(record),
        "metadata": record.metadata,
        "input": record.input,
        "created_at": stamp(record.created_at),
        "updated_at": stamp(record.updated_at),
        "state": record.status,
        "reason": "waiting" if record.status == "waiting" else record.reason,
        "error": record.error,
        "graph_version": record.graph_version,
        "usage": record.usage,
        "budget": record.budget,
        "priority": record.priority,
        "deadline": record.deadline,
        "forked_from": record.forked_from,
    }
    if record.thread is not None:
        shown["thread_id"] = record.thread
    if record.webhook is not None:
        shown["webhook"] = record.webhook
    return shown


def whole_run_json(record: RunRecord, steps: Sequence[StepRecord]) -> RunJson:
    return {
        **run_json(record),
        "steps": [step_json(step) for step in steps],
        "waiting": [waiting_json(step) for step in steps if step.state == "waiting"],
    }


def step_json(step: StepRecord) -> StepJson:
    return {
        "key": step.key,
        "step": step.step,
        "index": step.index,
        "state": step.state,
        "attempt": step.attempt,
        "agent": step.agent,
        "error": step.error,
        "usage": step.usage,
        "started_at": step.started_at,
        "finished_at": step.finished_at,
    }


def waiting_json(step: StepRecord) -> WaitingJson:
    asked = step.waiting or {}
    shown: WaitingJson = {
        "step": step.key,
        "reason": str(asked.get("reason", "")),
        "question": str(asked.get("question", "")),
        "show": asked.get("show"),
        "editable": bool(asked.get("editable", False)),
        "since": step.started_at,
        "expires_at": asked.get("expires_at"),
    }
    if asked.get("call"):
        shown["call"] = str(asked["call"])
    return shown


def status_of(record: RunRecord) -> Status:
    return _STATUSES.get(record.status, record.status)  # type: ignore[arg-type]


def wait_json(record: RunRecord, steps: Sequence[StepRecord] = ()) -> RunWaitJson:
    """`steps` of a run that waits for a person: the answer then says for what."""
    run = run_json(record)
    if record.status == "waiting":
        run["waiting"] = [waiting_json(step) for step in steps if step.state == "waiting"]
    return {"run": run, "values": values_of(record), "messages": messages_of(record)}


def values_of(record: RunRecord) -> dict[str, Any]:
    """The output object; any other output as `{"output": x}`, and nothing for a run without success.

    A chat graph's messages are told apart from it.
    """
    if record.status != "success":
        return {}
    if not isinstance(record.output, dict):
        return {"output": record.output}
    if not _talks(record):
        return record.output
    return {name: value for name, value in record.output.items() if name != "messages"}


def messages_of(record: RunRecord) -> list[dict[str, Any]]:
    if record.status != "success" or not _talks(record):
        return []
    return [message for message in record.output["messages"] if isinstance(message, dict)]


def _talks(record: RunRecord) -> bool:
    output: Any = record.output
    messages = output.get("messages") if isinstance(output, Mapping) else None
    return bool(record.graph.get("chat")) and isinstance(messages, list)


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def stamp_of(seconds: float | None) -> str | None:
    """None for what has not been yet."""
    return None if seconds is None else stamp(seconds)
