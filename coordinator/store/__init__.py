"""The journal: an append-only store on SQLite or PostgreSQL."""

from coordinator.store.journal import Journal
from coordinator.store.records import (
    TERMINAL_STATUSES,
    CallSettled,
    Change,
    Decision,
    DecisionTaken,
    EventDraft,
    NewRun,
    RunBrief,
    RunChange,
    RunFlags,
    RunRecord,
    RunStatus,
    StepCall,
    StepChange,
    StepRecord,
    StepState,
    ThreadChange,
)

__all__ = [
    "TERMINAL_STATUSES",
    "CallSettled",
    "Change",
    "Decision",
    "DecisionTaken",
    "EventDraft",
    "Journal",
    "NewRun",
    "RunBrief",
    "RunChange",
    "RunFlags",
    "RunRecord",
    "RunStatus",
    "StepCall",
    "StepChange",
    "StepRecord",
    "StepState",
    "ThreadChange",
]
