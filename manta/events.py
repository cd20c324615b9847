"""What happens in a run, as its watchers see it.

Durable events have a gapless `seq` from 1 and are journaled before anyone sees them; token deltas and
finished calls (`seq` 0) pass through a bounded ring and are never journaled.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from manta.ids import RunId, StepKey

FINAL_STATES = frozenset({"success", "error", "timeout", "interrupted"})
"""Statuses of a run to which nothing is added."""

EventType: TypeAlias = Literal[
    "run_started",
    "run_resumed",
    "step_started",
    "step_retried",
    "step_done",
    "step_failed",
    "step_skipped",
    "step_waiting",
    "step_decided",
    "run_waiting",
    "call_done",
    "token",
    "run_done",
    "run_failed",
    "run_cancelled",
]

TERMINAL_EVENTS: frozenset[str] = frozenset({"run_done", "run_failed", "run_cancelled"})
RESTING_EVENTS: frozenset[str] = TERMINAL_EVENTS | {"run_waiting"}
"""After these nothing happens by itself: the run is over, or waits for a person."""


@dataclass(frozen=True, slots=True)
class Event:
    """`at` is seconds since the epoch. `data` by type:

    run_started: graph, version, steps (the step ids in order), manta (its version), forked_from (a run's id)
    run_resumed: epoch, or reason (`resumed`: by a person, after it had failed)
    step_started: attempt, agent; step_retried: attempt, error, delay_s
    step_done: usage, seconds; step_failed: error; call_done (transient): kind, name, usage, replayed
    step_waiting: reason (`approval`, `outcome_unknown`), question, show, editable, expires_at
    step_decided: action, by, comment; run_waiting: steps (the keys that wait)
    token (transient): text; run_done: usage; run_failed: error
    """

    run: RunId
    seq: int
    type: EventType
    at: float
    step: StepKey | None = None
    data: dict[str, Any] = field(default_factory=dict)
