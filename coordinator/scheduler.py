"""What is ready, and when a run is over: a pure function of the graph and what has happened so far.

Dataflow readiness: a step may start when the steps it needs are settled, whatever its siblings do. Fan-outs,
loops and sub-graphs have no executions of their own; their state follows from those beneath them.
"""

from collections.abc import Mapping
from typing import Any

from coordinator.plan.board import Board
from coordinator.plan.decisions import (
    Decision,
    Ended,
    Execution,
    Finished,
    Settle,
    Skip,
    Start,
    State,
    Wait,
)
from coordinator.plan.downstream import downstream
from coordinator.plan.fan_out import MAX_ITEMS
from coordinator.plan.layout import layout_of
from coordinator.plan.leaf import Around
from coordinator.plan.scope import Scope
from manta.graph import Graph
from manta.ids import StepKey

__all__ = [
    "MAX_ITEMS",
    "Decision",
    "Execution",
    "Finished",
    "Progress",
    "Settle",
    "Skip",
    "Start",
    "State",
    "Wait",
]


class Progress:
    """How far a run is. Costs as much as there are executions, however they end: none is looked at twice.

    `thread`: what references see under that name. `overrides`: inputs by key that stand in for those the
    graph would give; of a prompt, an approval or a route their entries of its fields' names stand in for those.
    """

    def __init__(
        self,
        graph: Graph,
        run_input: Any,
        *,
        thread: Mapping[str, Any] | None = None,
        overrides: Mapping[StepKey, dict[str, Any]] | None = None,
    ) -> None:
        self._graph = graph
        self._board = Board(thread, overrides or {})
        self._decision: Decision | None = None
        run = Scope(
            self._board, _Run(self._board), None, StepKey(""), None, layout_of(graph), run_input, Around()
        )
        self._board.later(run.open)

    def note(self, execution: Execution) -> None:
        """Tell of any change, and of every execution in the journal when a run is taken up, in any order.

        What was under way when a coordinator died is not told of: it is to start again.
        """
        self._board.note(execution)
        self._decision = None

    def forget(self, key: StepKey) -> None:
        """An execution that is under way is to begin anew. One that is settled or unknown is left as it is."""
        self._board.forget(key)
        self._decision = None

    def decide(self) -> Decision:
        """All that may begin now and was not noted; the same again until something is noted."""
        if self._decision is None:
            self._board.work()
            self._decision = self._board.decision()
        return self._decision

    def downstream(self, key: StepKey) -> frozenset[StepKey]:
        """Of the noted executions those that depend on this one, itself included: what a fork does not copy.

        Raises:
            NotFound: the graph has no such execution.
        """
        return downstream(self._graph, key, self._board.known)


class _Run:
    """What is around the run's own graph."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def settled(self, slot: Any, state: Ended, value: Any) -> None:
        self._board.finished = Finished(error=value) if state == "failed" else Finished(output=value)
