"""What goes into the journal and what comes out of it: frozen dataclasses of plain JSON values."""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from manta.events import FINAL_STATES, EventType
from manta.ids import RunId, StepKey, Tenant, ThreadId
from manta.messages import Budget, RecordedCall, Usage

RunStatus: TypeAlias = Literal["pending", "running", "waiting", "success", "error", "timeout", "interrupted"]
"""`waiting`: for a person; nothing of the run is in memory then. The last four are terminal."""
StepState: TypeAlias = Literal["started", "waiting", "done", "failed", "skipped"]
DecisionAction: TypeAlias = Literal["approve", "reject", "edit", "retry", "resolve"]
"""`approve`, `reject` and `edit` answer an approval. A call of unknown outcome is answered by `retry` (it did
not take effect), `resolve` (it did, and `value` is its result) or `reject` (the step fails)."""

TERMINAL_STATUSES: frozenset[str] = FINAL_STATES


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run as it was asked for. `deadline`: seconds since the epoch; `body_hash` names the request body.

    `overrides`: inputs by step key that stand in for those the graph would give. `forked_from`: the run whose
    executions `copied` (their keys) are taken over as done or skipped, in the same transaction.
    `reject_if_busy`: refuse it while another run of its thread is unfinished, instead of queueing.
    """

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
    priority: int = 0
    budget: Budget | None = None
    thread: ThreadId | None = None
    webhook: str | None = None
    overrides: dict[StepKey, dict[str, Any]] = field(default_factory=dict)
    forked_from: RunId | None = None
    copied: tuple[StepKey, ...] = ()
    reject_if_busy: bool = False


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as the journal has it. `epoch` 0 was never claimed; times are seconds since the epoch.

    `usage` grows with every finished call and step execution. `takeovers`: claims from a coordinator that
    died, since a step last got done. `wake_at`: when a waiting run has to be looked at without being asked.
    `number`: the order of creation. `last_seq`: the number of its last event.
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
    error: dict[str, Any] | None
    output: Any
    usage: Usage
    epoch: int
    owner: str | None
    cancel_requested: bool
    deadline: float | None
    created_at: float
    updated_at: float
    priority: int = 0
    budget: Budget | None = None
    thread: ThreadId | None = None
    webhook: str | None = None
    overrides: dict[StepKey, dict[str, Any]] = field(default_factory=dict)
    forked_from: RunId | None = None
    takeovers: int = 0
    wake_at: float | None = None
    number: int = 0
    last_seq: int = 0


@dataclass(frozen=True, slots=True)
class RunBrief:
    """What admission needs to know of a run; small, as thousands are in memory. `number`: order of creation.

    `takeovers`: as in `RunRecord`; the death that leaves it to be taken now is not counted yet.
    """

    id: RunId
    number: int
    tenant: Tenant
    graph_name: str
    status: RunStatus
    priority: int
    thread: ThreadId | None
    max_active: int | None
    takeovers: int = 0


@dataclass(frozen=True, slots=True)
class RunFlags:
    """What has come for a run from outside: a cancel request, and so many decisions not yet acted on."""

    id: RunId
    tenant: Tenant
    cancel_requested: bool
    decisions: int


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step execution as of its latest attempt; `started_at` is that attempt's, or when it began to wait.

    `waiting`: for a waiting one, what it waits for, as in the event `step_waiting`; with `call` (a key) when
    it is the outcome of a call. `notes`: see `manta.messages.TaskResult`.
    """

    key: StepKey
    step: str
    index: int | None
    state: StepState
    attempt: int
    agent: str | None
    input: Any
    output: Any
    error: dict[str, Any] | None
    usage: Usage
    started_at: float | None
    finished_at: float | None
    waiting: dict[str, Any] | None = None
    notes: dict[str, Any] | None = None


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
    error: dict[str, Any] | None = None
    usage: Usage = field(default_factory=Usage)
    waiting: dict[str, Any] | None = None
    notes: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RunChange:
    """A run's new status; whatever is None stays as it is. A terminal one queues the run's webhook.

    With the status `waiting` the owner lets go of the run. If a decision has come that it has not taken, or a
    cancel request, the status becomes `pending` instead.
    """

    status: RunStatus
    reason: str | None = None
    error: dict[str, Any] | None = None
    output: Any = None
    wake_at: float | None = None


@dataclass(frozen=True, slots=True)
class ThreadChange:
    """What a run adds to its thread when it ends well."""

    thread: ThreadId
    values: dict[str, Any]
    messages: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """A person's answer to a step execution that waits. `number` orders those of a run, from 1."""

    number: int
    step: StepKey
    action: DecisionAction
    value: Any
    comment: str
    by: str
    at: float


@dataclass(frozen=True, slots=True)
class DecisionTaken:
    """The owner has acted on a decision, by the other changes of the same commit."""

    number: int


@dataclass(frozen=True, slots=True)
class CallSettled:
    """A person's word on a call of unknown outcome: `response` is its result, or None to let it be made again."""

    step: StepKey
    key: str
    response: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class EventDraft:
    """An event before the journal gives it a number and a time."""

    type: EventType
    step: StepKey | None = None
    data: dict[str, Any] = field(default_factory=dict)


Change: TypeAlias = StepChange | RunChange | EventDraft | ThreadChange | DecisionTaken | CallSettled
