"""What the service tells, as dataclasses. Times that end in `_at` are epoch seconds or, of type datetime, in UTC."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from manta.errors import MantaError, error_from_json
from manta.events import FINAL_STATES
from manta.messages import Budget, Usage, from_json


@dataclass(frozen=True, slots=True)
class StepState:
    """One step execution. Times are None while they have not come."""

    key: str
    step: str
    state: str
    index: int | None = None
    attempt: int = 1
    agent: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    usage: Usage = field(default_factory=Usage)
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class WaitingStep:
    """What waits for a person. `reason`: `approval`, or `outcome_unknown` of the recorded call `call`.

    `show` is what is to be looked at; `expires_at`: when the step fails unanswered.
    """

    step: str
    reason: str
    question: str = ""
    show: Any = None
    editable: bool = False
    since: float | None = None
    expires_at: float | None = None
    call: str | None = None


@dataclass(frozen=True, slots=True)
class Approval(WaitingStep):
    """A step that waits, and the run it belongs to."""

    run_id: str = ""
    graph: str = ""
    thread: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """A run as the service tells of it. `status`: pending, waiting (for a person), success, error, timeout or
    interrupted; `state` is the same, but tells `running` from `pending`.

    `steps` and `waiting` are there when a single run was asked for. `reason`: why it has its status, such as
    `cancelled`, `deadline`, `dead_letter` or the code of its error. `deadline`: epoch seconds.
    """

    id: str
    graph: str
    status: str
    created_at: datetime
    updated_at: datetime
    input: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    graph_version: str = ""
    reason: str | None = None
    error: MantaError | None = None
    usage: Usage = field(default_factory=Usage)
    steps: tuple[StepState, ...] = ()
    waiting: tuple[WaitingStep, ...] = ()
    state: str = ""
    thread: str | None = None
    budget: Budget | None = None
    priority: int = 0
    deadline: float | None = None
    forked_from: str | None = None
    webhook: str | None = None

    @property
    def done(self) -> bool:
        return self.status in FINAL_STATES

    def failure(self) -> MantaError:
        """Why a run has no output: its error, or the question that it waits with (code `waiting`)."""
        if self.status == "waiting":
            asked = "; ".join(step.question for step in self.waiting if step.question)
            return MantaError(
                f"run {self.id} waits for a person" + (f": {asked}" if asked else ""),
                fix=f"manta approve {self.id}",
                code="waiting",
            )
        cause = self.reason or self.status
        return self.error or MantaError(
            f"run {self.id} ended: {cause}", fix=f"manta show {self.id}", code=cause
        )


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run that is done, or waits for a person, and its output: the graph's object, or `{"output": x}` for any
    other value. A chat graph's messages are apart from it.
    """

    run: Run
    output: dict[str, Any]
    messages: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A model or tool call of a run. `state`: `intent`, `done`, `unknown` or `cleared`; see `manta.messages`."""

    step: str
    attempt: int
    key: str
    kind: str
    name: str
    state: str
    usage: Usage = field(default_factory=Usage)
    error: dict[str, Any] | None = None
    request: dict[str, Any] | None = None
    response: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Feedback:
    """`rating`: 1 (worst) to 5, or None."""

    id: str
    run_id: str
    rating: int | None
    comment: str
    by: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Thread:
    """A conversation over runs. `status`: `idle`, `busy`, `interrupted` or `error`."""

    id: str
    status: str
    created_at: datetime
    updated_at: datetime
    metadata: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    messages: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class ThreadState:
    """A thread as it was once. `run_id`: the run that made it so, None for a change by hand."""

    checkpoint: str
    values: dict[str, Any]
    messages: tuple[dict[str, Any], ...]
    created_at: datetime
    run_id: str | None = None
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """`next_at` is None while it is not enabled; `last_error`: why its latest time came to no run."""

    id: str
    graph: str
    input: Any
    cron: str
    timezone: str
    enabled: bool
    metadata: dict[str, Any] = field(default_factory=dict)
    next_at: float | None = None
    last_at: float | None = None
    last_run: str | None = None
    last_error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """A value of the store, under a key in a namespace."""

    namespace: tuple[str, ...]
    key: str
    value: dict[str, Any]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class GraphInfo:
    name: str
    description: str = ""
    version: str = ""
    input_schema: dict[str, Any] = field(default_factory=dict)
    chat: bool = False


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    name: str
    documents: int = 0
    passages: int = 0


@dataclass(frozen=True, slots=True)
class DocumentInfo:
    document: str
    passages: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Component:
    state: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Readiness:
    ready: bool
    components: dict[str, Component]


@dataclass(frozen=True, slots=True)
class ChatReply:
    text: str
    model: str
    finish_reason: str
    usage: Usage


def run_of(data: Mapping[str, Any]) -> Run:
    error, budget, reason = data.get("error"), data.get("budget"), data.get("reason")
    # The protocol has no word of its own for a run that waits for a person.
    waits = data["status"] == "interrupted" and reason == "waiting"
    return Run(
        id=str(data["run_id"]),
        graph=str(data.get("agent_id") or ""),
        status="waiting" if waits else str(data["status"]),
        created_at=moment(data["created_at"]),
        updated_at=moment(data["updated_at"]),
        input=data.get("input"),
        metadata=dict(data.get("metadata") or {}),
        graph_version=str(data.get("graph_version") or ""),
        reason=reason,
        error=error_from_json(error) if error else None,
        usage=_usage(data),
        steps=tuple(
            from_json(StepState, {**s, "usage": s.get("usage") or {}}) for s in data.get("steps") or ()
        ),
        waiting=tuple(from_json(WaitingStep, w) for w in data.get("waiting") or ()),
        state=str(data.get("state") or data["status"]),
        thread=data.get("thread_id"),
        budget=from_json(Budget, budget) if budget else None,
        priority=int(data.get("priority") or 0),
        deadline=data.get("deadline"),
        forked_from=data.get("forked_from"),
        webhook=data.get("webhook"),
    )


def approval_of(data: Mapping[str, Any]) -> Approval:
    return from_json(Approval, {**data, "graph": data.get("agent_id", ""), "thread": data.get("thread_id")})


def call_of(data: Mapping[str, Any]) -> RecordedCall:
    return from_json(RecordedCall, {**data, "usage": data.get("usage") or {}})


def feedback_of(data: Mapping[str, Any]) -> Feedback:
    return Feedback(
        id=str(data["feedback_id"]),
        run_id=str(data["run_id"]),
        rating=data["rating"],
        comment=str(data["comment"]),
        by=str(data["by"]),
        created_at=moment(data["created_at"]),
    )


def thread_of(data: Mapping[str, Any]) -> Thread:
    return Thread(
        id=str(data["thread_id"]),
        status=str(data["status"]),
        created_at=moment(data["created_at"]),
        updated_at=moment(data["updated_at"]),
        metadata=dict(data["metadata"]),
        values=dict(data.get("values") or {}),
        messages=tuple(data.get("messages") or ()),
    )


def thread_state_of(data: Mapping[str, Any]) -> ThreadState:
    about = data["metadata"]
    return ThreadState(
        checkpoint=str(data["checkpoint"]["checkpoint_id"]),
        values=dict(data["values"]),
        messages=tuple(data.get("messages") or ()),
        created_at=moment(about["created_at"]),
        run_id=about.get("run_id"),
        parent=about.get("parent"),
    )


def schedule_of(data: Mapping[str, Any]) -> Schedule:
    return from_json(Schedule, {**data, "id": data["schedule_id"]})


def item_of(data: Mapping[str, Any]) -> Item:
    return Item(
        namespace=tuple(data["namespace"]),
        key=str(data["key"]),
        value=dict(data["value"]),
        created_at=moment(data["created_at"]),
        updated_at=moment(data["updated_at"]),
    )


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _usage(data: Mapping[str, Any]) -> Usage:
    return from_json(Usage, data.get("usage") or {})
