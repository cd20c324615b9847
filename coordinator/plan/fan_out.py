"""A step that runs once per item of a list, so many at a time, and joins their outputs in order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from coordinator.plan.board import Board, Owner, Part
from coordinator.plan.decisions import Ended, Error
from manta.errors import StepError
from manta.graph import Step
from manta.ids import StepKey
from manta.references import resolve

MAX_ITEMS = 10_000
"""Items of one fan-out."""


def items_of(step: Step, names: Mapping[str, Any]) -> list[Any]:
    """Raises StepError, code `invalid_fan_out`, for what is no list or too long."""
    items = resolve(step.for_each, names)
    if not isinstance(items, list):
        kind = "null" if items is None else type(items).__name__
        cause = f"for_each of step {step.id!r} must be a list, it is {kind}"
        raise StepError(cause, fix="check the reference", code="invalid_fan_out")
    if len(items) > MAX_ITEMS:
        cause = f"for_each of step {step.id!r} has {len(items)} items, {MAX_ITEMS} are allowed"
        raise StepError(cause, fix="split the list", code="invalid_fan_out")
    return items


class FanOut:
    """An item keeps its place until it is settled, also while it waits for a person."""

    def __init__(
        self,
        board: Board,
        owner: Owner,
        slot: Any,
        key: StepKey,
        step: Step,
        items: Sequence[Any],
        begin: "Begin",
    ) -> None:
        self._board = board
        self._owner = owner
        self._slot = slot
        self._key = key
        self._items = items
        self._begin = begin
        self._places = step.max_parallel
        self._tolerated = _tolerated(step, len(items))
        self._outputs: list[Any] = [None] * len(items)
        self._failure: tuple[int, Error] | None = None
        """Of the first item, in their order, that failed: it speaks for the others."""
        self._left = len(items)
        self._active: dict[int, Part | None] = {}
        self._next = self._in_turn()
        self._closed = False

    def open(self) -> "FanOut":
        if self._left:
            self._fill_places()
        else:
            self._close("done", [])
        return self

    def settled(self, slot: int, state: Ended, value: Any) -> None:
        if self._closed:
            return
        del self._active[slot]
        self._left -= 1
        if state == "failed":
            if self._failure is None or slot < self._failure[0]:
                self._failure = (slot, value)
            self._tolerated -= 1
            if self._tolerated < 0:
                return self._fail(self._failure[1])
        else:
            self._outputs[slot] = value
        if self._left:
            self._fill_places()
        else:
            self._close("done", self._outputs)

    def abandon(self) -> None:
        self._closed = True
        active, self._active = self._active, {}
        for part in active.values():
            if part is not None:
                part.abandon()
        self._board.abandon_below(self._key)

    def _fail(self, error: Error) -> None:
        self.abandon()
        self._close("failed", error)

    def _close(self, state: Ended, value: Any) -> None:
        self._closed = True
        self._board.later(self._owner.settled, self._slot, state, value)

    def _fill_places(self) -> None:
        while len(self._active) < self._places:
            index = next(self._next, None)
            if index is None:
                return
            self._active[index] = self._begin(self, index, self._items[index])

    def _in_turn(self) -> Iterator[int]:
        """Those that have begun before the run was taken up go first, as they have their places already."""
        if not self._board.remembers:
            yield from range(len(self._items))
            return
        begun = [self._board.has_begun(StepKey(f"{self._key}[{n}]")) for n in range(len(self._items))]
        yield from (index for index, has_begun in enumerate(begun) if has_begun)
        yield from (index for index, has_begun in enumerate(begun) if not has_begun)


Begin: TypeAlias = Callable[[FanOut, int, Any], Part | None]
"""Begins one item's execution; None if it was settled before."""


def _tolerated(step: Step, items: int) -> int:
    """How many items may fail: those beyond the quorum; without one all if errors are skipped, else none."""
    if step.quorum is not None:
        return max(0, items - step.quorum)
    return items if step.on_error == "skip" else 0
