"""Named points at which a test may kill this process, and the ledger that proves what really happened.

Both are off unless the environment asks for them; see `manta.config.kill_point` and `ledger_file`.
"""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from manta.config import kill_point, ledger_file

KILL_POINTS = (
    "coordinator.run_created",
    "coordinator.run_queued",
    "coordinator.forked",
    "coordinator.reopened",
    "coordinator.cancel_requested",
    "coordinator.run_claimed",
    "coordinator.place_got",
    "coordinator.step_started",
    "coordinator.step_retried",
    "coordinator.step_done",
    "coordinator.parked",
    "coordinator.decided",
    "coordinator.decision_taken",
    "coordinator.before_finish",
    "coordinator.run_ended",
    "coordinator.lease_renewed",
    "journal.group_written",
    "journal.group_committed",
    "journal.run_ending",
    "journal.intent_committed",
    "journal.outcome_committed",
    "agent.task_received",
    "agent.tool_done",
    "agent.model_answered",
    "agent.task_done",
    "webhook.sent",
    "webhook.noted",
    "schedule.run_made",
    "replica.first_token",
)
"""Every point in the code path, room by room in the order a run meets them."""

_reached: dict[str, int] = {}


def reach(point: str) -> None:
    """Die here by SIGKILL if `MANTA_KILL_AT=point:n` names this point and it is met for the n-th time.

    `MANTA_KILL_ONCE`, a path, makes it happen once in all: whoever creates that file dies.
    """
    wanted, once = kill_point()
    if not wanted:
        return
    name, _, count = wanted.partition(":")
    if name != point:
        return
    _reached[point] = _reached.get(point, 0) + 1
    if _reached[point] != int(count or 1) or not _claim(once):
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _claim(once: str) -> bool:
    if not once:
        return True
    try:
        os.close(os.open(once, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def note_side_effect(kind: str, **facts: Any) -> None:
    """Append a line to the ledger, durable when this returns. One write per line, so processes may share it."""
    path = ledger_file()
    if path is None:
        return
    line = json.dumps({"kind": kind, "pid": os.getpid(), "at": time.time(), **facts}) + "\n"
    descriptor = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_ledger(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
