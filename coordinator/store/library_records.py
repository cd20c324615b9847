"""What the rooms beside the journal hold, as plain values. Times are seconds since the epoch."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from manta.ids import RunId, Tenant, ThreadId

ThreadStatus: TypeAlias = Literal["idle", "busy", "interrupted", "error"]
"""`busy`: a run works on it or queues for it; `interrupted`: its run waits for a person, or the last one was
cancelled; `error`: the last one failed."""
WebhookState: TypeAlias = Literal["pending", "delivered", "failed"]


@dataclass(frozen=True, slots=True)
class ThreadRecord:
    """A thread and its current state. `messages` are the Agent Protocol's, each with an id."""

    id: ThreadId
    tenant: Tenant
    status: ThreadStatus
    metadata: dict[str, Any]
    values: dict[str, Any]
    messages: tuple[dict[str, Any], ...]
    checkpoint: str | None
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class ThreadState:
    """A thread as it was once. `base`: the checkpoint it was made from; `run`: who made it, None for a patch."""

    thread: ThreadId
    checkpoint: str
    base: str | None
    run: RunId | None
    values: dict[str, Any]
    messages: tuple[dict[str, Any], ...]
    created_at: float


@dataclass(frozen=True, slots=True)
class ItemRecord:
    namespace: tuple[str, ...]
    key: str
    value: dict[str, Any]
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """`next_at` is None while it is not enabled. `last_error`: why its latest time came to no run."""

    id: str
    tenant: Tenant
    principal: str
    graph: str
    input: Any
    cron: str
    timezone: str
    metadata: dict[str, Any]
    enabled: bool
    next_at: float | None
    last_at: float | None
    last_run: RunId | None
    last_error: dict[str, Any] | None
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class WebhookRecord:
    """A message on its way. `id` is the same at every try; `attempts` counts those begun."""

    id: str
    tenant: Tenant
    run: RunId
    url: str
    host: str
    state: WebhookState
    attempts: int
    next_at: float | None
    error: dict[str, Any] | None
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class FeedbackRecord:
    """`rating` is 1 (worst) to 5; one of rating and comment is there."""

    id: str
    tenant: Tenant
    run: RunId
    principal: str
    rating: int | None
    comment: str
    created_at: float


@dataclass(frozen=True, slots=True)
class Swept:
    """What went, or in a dry run would go. Sizes are in bytes; `freed` is what the database gave back.

    `calls`: those that lost their requests and responses. `processes`: dead ones, of which a row was left.
    """

    runs: int = 0
    calls: int = 0
    processes: int = 0
    files: int = 0
    file_bytes: int = 0
    freed: int = 0
    notes: tuple[str, ...] = ()
