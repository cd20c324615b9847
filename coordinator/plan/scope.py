"""One graph at work: the run's own, or that of a sub-graph step, of its item, of its round."""

from collections.abc import Mapping
from typing import Any

from coordinator.plan.board import Board, Owner, Part
from coordinator.plan.decisions import Ended, Error, Skip
from coordinator.plan.layout import GraphLayout, StepLayout
from coordinator.plan.leaf import Around, Inputs, chosen_by
from coordinator.plan.rows import FixedRow, settle
from coordinator.plan.step_run import StepRun
from manta.errors import StepError
from manta.graph import Step
from manta.ids import StepId, StepKey, step_key
from manta.references import resolve

_ITSELF = StepId("")
"""Stands for the sub-graph as a whole among its steps."""


class Scope:
    """`step`: the one whose sub-graph it is, at `key`; None for the run's own."""

    def __init__(
        self,
        board: Board,
        owner: Owner,
        slot: Any,
        key: StepKey,
        step: Step | None,
        layout: GraphLayout,
        graph_input: Any,
        around: Around,
    ) -> None:
        self._board = board
        self._owner = owner
        self._slot = slot
        self._key = key
        self._step = step
        self._layout = layout
        self._around = around
        self._outputs: dict[str, Any] = {}
        self._names = {"input": graph_input, "steps": self._outputs, "thread": board.thread}
        self._missing = [step.needs for step in layout.steps]
        self._left = len(layout.steps)
        self._chosen: set[str] = set()
        self._errors: dict[StepId, Error] = {}
        """Of steps whose fallbacks have not spoken yet."""
        self._active: dict[StepId, Part | None] = {}
        self._closed = False

    def open(self) -> None:
        for step in self._layout.steps:
            if not step.needs:
                self._board.later(self._consider, step)

    def abandon(self) -> None:
        self._closed = True
        active, self._active = self._active, {}
        for part in active.values():
            if part is not None:
                part.abandon()
        self._board.abandon_below(self._key)

    def settled(self, slot: StepLayout, state: Ended, value: Any) -> None:
        """A step has come to its end, all its items and rounds included."""
        if self._closed:
            return
        self._active.pop(slot.id, None)
        if state == "failed":
            self._take_failure(slot, value)
        elif state == "skipped" and slot.stands_in_for in self._errors:
            # The fallback did not want to: the error stands.
            self._fail(self._errors[slot.stands_in_for])
        else:
            if slot.step.route is not None and state == "done":
                self._chosen.update(chosen_by(slot.step.route, value))
            self._give(slot, None if state == "skipped" else value)
        if not self._closed:
            self._release(slot)

    def _take_failure(self, step: StepLayout, error: Error) -> None:
        if step.step.fallback is not None:
            self._errors[step.id] = error
        elif step.step.on_error == "skip":
            self._give(step, None)
        else:
            self._fail(error)

    def _give(self, step: StepLayout, output: Any) -> None:
        """The step's output, which is that of the one it stands in for too."""
        self._outputs[step.id] = output
        replaced = step.stands_in_for
        while replaced is not None and self._errors.pop(replaced, None) is not None:
            self._outputs[replaced] = output
            replaced = self._layout.by_id[replaced].stands_in_for

    def _release(self, step: StepLayout) -> None:
        for dependent in step.dependents:
            self._missing[dependent.number] -= 1
            if not self._missing[dependent.number]:
                self._board.later(self._consider, dependent)
        self._left -= 1
        if not self._left:
            self._finish()

    def _finish(self) -> None:
        try:
            output = resolve(self._layout.output, self._names)
        except StepError as error:
            if self._step is None:
                return self._fail(error.to_json())
            self._closed = True
            failed = settle(self._board, self._owner, self._slot, self._key, self._step, error)
            self._active[_ITSELF] = failed
            return
        self._close("done", output)

    def _fail(self, error: Error) -> None:
        if self._step is not None:
            self.abandon()
        self._close("failed", error)

    def _close(self, state: Ended, value: Any) -> None:
        self._closed = True
        self._board.later(self._owner.settled, self._slot, state, value)

    def _consider(self, step: StepLayout) -> None:
        """All that it waits for is settled: does it run?"""
        if self._closed:
            return
        key = step_key(step.id, parent=self._key)
        if not self._board.has_begun(key):
            try:
                if not self._wanted(step):
                    skip = Skip(key, step.step)
                    self._active[step.id] = FixedRow(self._board, self, step, skip).begin()
                    return
            except StepError as error:
                self._active[step.id] = settle(self._board, self, step, key, step.step, error)
                return
        around = self._around.within(key, step.step.budget, step.step.priority)
        names = self._names_for(step)
        run = StepRun(self._board, step, key, names, around, Inputs(step), _nest)
        self._active[step.id] = run.open(self)

    def _wanted(self, step: StepLayout) -> bool:
        if step.routes and step.id not in self._chosen:
            return False
        if step.stands_in_for is not None and step.stands_in_for not in self._errors:
            return False
        when = step.step.when
        return when is None or bool(resolve(when, self._names_for(step)))

    def _names_for(self, step: StepLayout) -> Mapping[str, Any]:
        if step.stands_in_for is None:
            return self._names
        return {**self._names, "error": self._errors.get(step.stands_in_for)}


def _nest(
    board: Board, owner: Owner, slot: Any, key: StepKey, layout: StepLayout, given: Any, around: Around
) -> Scope:
    assert layout.inner is not None
    scope = Scope(board, owner, slot, key, layout.step, layout.inner, given, around)
    scope.open()
    return scope
