"""Executions that the journal has rows of, from when they may begin until they are settled."""

from abc import ABC, abstractmethod
from typing import Any

from coordinator.plan.board import Announcement, Board, Owner
from coordinator.plan.decisions import Error, Execution, Settle, Skip
from manta.errors import StepError
from manta.graph import Step
from manta.ids import StepKey


class Row(ABC):
    """What may begin is announced until it is noted; what is noted to have ended is told to its owner."""

    __slots__ = ("board", "ended", "key", "owner", "slot", "table", "under_way")

    def __init__(self, board: Board, owner: Owner, slot: Any, key: StepKey) -> None:
        self.board = board
        self.owner = owner
        self.slot = slot
        self.key = key
        self.table: dict[StepKey, Any] | None = None
        self.under_way = False
        self.ended = False

    @abstractmethod
    def announcement(self) -> Announcement:
        """What is to be done."""

    def begin(self, noted: Execution | None = None) -> "Row":
        """`noted`: what was noted of it before its time; then it is under way and nothing is announced."""
        self.board.add(self)
        if noted is not None:
            self.under_way = True
        else:
            self.table = self.board.announce(self.announcement())
        return self

    def note(self, execution: Execution) -> None:
        self._withdraw()
        state = execution.state
        if state == "started" or state == "waiting":
            self.under_way = True
            return
        self.ended = True
        self.board.remove(self, under_way=False)
        value = failure(execution) if state == "failed" else execution.output
        self.board.later(self.owner.settled, self.slot, state, value)

    def forget(self) -> None:
        self._withdraw()
        self.under_way = False
        self.table = self.board.announce(self.announcement())

    def abandon(self) -> None:
        if not self.ended:
            # Else its owner has not heard of it yet, and now has nothing to do with it.
            self._withdraw()
            self.board.remove(self, under_way=self.under_way)

    def _withdraw(self) -> None:
        if self.table is not None:
            del self.table[self.key]
            self.table = None


class FixedRow(Row):
    """One whose announcement is known: a skip, an error."""

    __slots__ = ("_announcement",)

    def __init__(self, board: Board, owner: Owner, slot: Any, announcement: Skip | Settle) -> None:
        super().__init__(board, owner, slot, announcement.key)
        self._announcement = announcement

    def announcement(self) -> Announcement:
        return self._announcement


def failure(execution: Execution) -> Error:
    if execution.error is not None:
        return execution.error
    return StepError(f"step {execution.key} failed and did not say why").to_json()


def settle(board: Board, owner: Owner, slot: Any, key: StepKey, step: Step, error: StepError) -> Row:
    """An error that needs no agent."""
    return FixedRow(board, owner, slot, Settle(key, step, error=error.to_json())).begin()
