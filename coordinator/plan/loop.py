"""A step that runs again until a condition holds, a bounded number of times."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from coordinator.plan.board import Board, Owner, Part
from coordinator.plan.decisions import Ended
from coordinator.plan.rows import settle
from manta.errors import StepError
from manta.graph import Repeat, Step
from manta.ids import StepKey
from manta.references import resolve


class Loop:
    """`names`: what the step's references see besides those of the rounds."""

    def __init__(
        self,
        board: Board,
        owner: Owner,
        slot: Any,
        key: StepKey,
        step: Step,
        repeat: Repeat,
        names: Mapping[str, Any],
        begin: "Begin",
    ) -> None:
        self._board = board
        self._owner = owner
        self._slot = slot
        self._key = key
        self._step = step
        self._repeat = repeat
        self._names = {**names, "previous": None, "iteration": 0}
        self._begin = begin
        self._round: Part | None = None
        self._closed = False

    def open(self) -> "Loop":
        self._next_round(None)
        return self

    def settled(self, slot: int, state: Ended, value: Any) -> None:
        if self._closed:
            return
        self._round = None
        if state == "failed":
            return self._close("failed", value)
        try:
            if resolve(self._repeat.until, {**self._names, "output": value}):
                self._close("done", value)
            elif slot < self._repeat.max:
                self._next_round(value)
            elif self._repeat.on_limit == "accept":
                self._close("done", value)
            else:
                raise self._limit()
        except StepError as error:
            self._closed = True
            self._round = settle(self._board, self._owner, self._slot, self._key, self._step, error)

    def abandon(self) -> None:
        self._closed = True
        if self._round is not None:
            self._round.abandon()
            self._round = None
        self._board.abandon_below(self._key)

    def _next_round(self, previous: Any) -> None:
        iteration = self._names["iteration"] + 1
        # Those of earlier rounds keep theirs.
        self._names = {**self._names, "previous": previous, "iteration": iteration}
        self._round = self._begin(self, iteration, self._names)

    def _close(self, state: Ended, value: Any) -> None:
        self._closed = True
        self._board.later(self._owner.settled, self._slot, state, value)

    def _limit(self) -> StepError:
        cause = f"step {self._key} has run {self._repeat.max} times and {self._repeat.until} does not hold"
        return StepError(cause, fix="raise repeat.max, or accept what it is by then", code="loop_limit")


Begin: TypeAlias = Callable[[Loop, int, Mapping[str, Any]], Part | None]
"""Begins one round; None if it was settled before."""
