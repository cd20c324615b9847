"""The journal: an append-only store on SQLite or PostgreSQL."""

from coordinator.store.journal import Journal
from coordinator.store.records import (
    TERMINAL_STATUSES,
    Change,
    EventDraft,
    NewRun,
    RunChange,
    RunRecord,
    RunStatus,
    StepCall,
    StepChange,
    StepRecord,
    StepState,
)

__all__ = [
    "TERMINAL_STATUSES",
    "Change",
    "EventDraft",
    "Journal",
    "NewRun",
    "RunChange",
    "RunRecord",
    "RunStatus",
    "StepCall",
    "StepChange",
    "StepRecord",
    "StepState",
]
