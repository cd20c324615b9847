"""What goes into the journal and what comes out of it: frozen dataclasses of plain JSON values."""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from manta.events import EventType
from manta.ids import RunId, StepKey, Tenant
from manta.messages import RecordedCall, Usage

RunStatus: TypeAlias = Literal["pending", "running", "success", "error", "timeout", "interrupted"]
StepState: TypeAlias = Literal["started", "done", "failed", "skipped"]

TERMINAL_STATUSES: frozenset[str] = frozenset({"success", "error", "timeout", "interrupted"})


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run as it was asked for. `deadline`: seconds since the epoch; `body_hash` names the request body."""

    id: RunId
    tenant: Tenant
    principal: str
    graph_name: str
    graph_version: str
    graph: dict[str, Any]
    input: Any
    metadata: dict[str, Any]
    idempotency_key: str | None
    body_hash: str
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as the journal has it. `epoch` 0 was never claimed; times are seconds since the epoch.

    `usage` grows with every finished call, until the run's end sets it.
    """

    id: RunId
    tenant: Tenant
    principal: str
    graph_name: str
    graph_version: str
    graph: dict[str, Any]
    input: Any
    metadata: dict[str, Any]
    status: RunStatus
    reason: str | None
    error: dict[str, str] | None
    output: Any
    usage: Usage
    epoch: int
    owner: str | None
    cancel_requested: bool
    deadline: float | None
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step execution as of its latest attempt; `started_at` is that attempt's."""

    key: StepKey
    step: str
    index: int | None
    state: StepState
    attempt: int
    agent: str | None
    input: Any
    output: Any
    error: dict[str, str] | None
    usage: Usage
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class StepCall:
    """A recorded call and the step execution (and its attempt) that made it."""

    step: StepKey
    attempt: int
    call: RecordedCall


@dataclass(frozen=True, slots=True)
class StepChange:
    """A step execution's new state. `agent` and `input` None leave what an earlier change said."""

    key: StepKey
    step: str
    index: int | None
    state: StepState
    attempt: int
    agent: str | None = None
    input: Any = None
    output: Any = None
    error: dict[str, str] | None = None
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class RunChange:
    """A run's new status; whatever is None stays as it is."""

    status: RunStatus
    reason: str | None = None
    error: dict[str, str] | None = None
    output: Any = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class EventDraft:
    """An event before the journal gives it a number and a time."""

    type: EventType
    step: StepKey | None = None
    data: dict[str, Any] = field(default_factory=dict)


Change: TypeAlias = StepChange | RunChange | EventDraft
