"""One step of one graph at work: its executions, in items and rounds as it says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from coordinator.plan.board import Board, Owner, Part
from coordinator.plan.decisions import Execution
from coordinator.plan.fan_out import FanOut, items_of
from coordinator.plan.layout import StepLayout
from coordinator.plan.leaf import Around, Inputs, Leaf
from coordinator.plan.loop import Loop
from coordinator.plan.rows import failure, settle
from coordinator.submission import check_input
from manta.errors import InvalidInput, StepError
from manta.graph import Graph
from manta.ids import StepKey

Nest: TypeAlias = Callable[[Board, Owner, Any, StepKey, StepLayout, Any, Around], Part]
"""Opens a step's sub-graph, with its input."""


@dataclass(slots=True)
class StepRun:
    """`names`: what the references of the step see; `nest` opens its sub-graph."""

    board: Board
    layout: StepLayout
    key: StepKey
    names: Mapping[str, Any]
    around: Around
    inputs: Inputs
    nest: Nest

    def open(self, owner: Owner) -> Part | None:
        """Begin the step as a whole; None if it was settled before."""
        step = self.layout.step
        if step.for_each is None:
            return self._begin(owner, self.layout, self.key, None, self.names)
        noted = self.board.take(self.key)
        if noted is not None:
            return self._recall(owner, self.layout, noted)
        try:
            items = items_of(step, self.names)
        except StepError as error:
            return settle(self.board, owner, self.layout, self.key, step, error)
        return FanOut(self.board, owner, self.layout, self.key, step, items, self._begin_item).open()

    def _begin_item(self, fan_out: FanOut, index: int, item: Any) -> Part | None:
        key = StepKey(f"{self.key}[{index}]")
        return self._begin(fan_out, index, key, index, {**self.names, "item": item, "index": index})

    def _begin(
        self, owner: Owner, slot: Any, key: StepKey, index: int | None, names: Mapping[str, Any]
    ) -> Part | None:
        step = self.layout.step
        if step.repeat is None:
            return self._execute(owner, slot, key, index, names)
        noted = self.board.take(key)
        if noted is not None:
            return self._recall(owner, slot, noted)

        def begin_round(loop: Loop, iteration: int, names: Mapping[str, Any]) -> Part | None:
            return self._execute(loop, iteration, StepKey(f"{key}#{iteration}"), index, names)

        return Loop(self.board, owner, slot, key, step, step.repeat, names, begin_round).open()

    def _execute(
        self, owner: Owner, slot: Any, key: StepKey, index: int | None, names: Mapping[str, Any]
    ) -> Part | None:
        noted = self.board.take(key)
        if noted is not None and noted.state not in ("started", "waiting"):
            return self._recall(owner, slot, noted)
        if self.layout.inner is None:
            leaf = Leaf(self.board, owner, slot, key, self.layout, self.inputs, names, index, self.around)
            return leaf.begin(noted)
        try:
            given = self._input_of_graph(key, names)
        except StepError as error:
            return settle(self.board, owner, slot, key, self.layout.step, error)
        around = self.around.within(key, self.layout.inner.budget)
        return self.nest(self.board, owner, slot, key, self.layout, given, around)

    def _input_of_graph(self, key: StepKey, names: Mapping[str, Any]) -> dict[str, Any]:
        """Raises StepError, also when it does not fit the sub-graph's schema."""
        given = self.board.overrides.get(key)
        if given is None:
            given = self.inputs.input(names)
        graph = self.layout.step.graph
        assert isinstance(graph, Graph)
        try:
            check_input(graph, given)
        except InvalidInput as error:
            cause = f"the input of {key} does not fit its graph: {error.message}"
            raise StepError(cause, fix="mend the step's input", code=error.code) from error
        return given

    def _recall(self, owner: Owner, slot: Any, noted: Execution) -> Part | None:
        """It was settled before its turn came."""
        value = failure(noted) if noted.state == "failed" else noted.output
        self.board.later(owner.settled, slot, noted.state, value)
        return None
