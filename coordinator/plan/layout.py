"""What can be known of a graph before any run: who waits for whom, and which parts of an input can vary."""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from manta.errors import InvalidGraph
from manta.graph import Graph, Step
from manta.ids import StepId
from manta.messages import Budget
from manta.references import expressions, names_in, resolve

_OF_ITEMS = frozenset({"item", "index"})
_OF_ROUNDS = frozenset({"previous", "iteration"})


class Template:
    """A mapping with references. `own`: the names that differ between the executions of one step."""

    def __init__(self, mapping: Mapping[str, Any], own: frozenset[str] = frozenset()) -> None:
        self._mapping = mapping
        self._varying = frozenset(name for name, value in mapping.items() if own & _named(value))

    def shared(self, names: Mapping[str, Any]) -> dict[str, Any]:
        """The entries that are the same for all executions, filled in. Raises StepError."""
        return {
            name: resolve(value, names) for name, value in self._mapping.items() if name not in self._varying
        }

    def fill(self, names: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
        """All entries, in their order. Raises StepError."""
        return {
            name: resolve(value, names) if name in self._varying else shared[name]
            for name, value in self._mapping.items()
        }


def _named(template: Any) -> set[str]:
    return {name for expression in expressions(template) for name in names_in(expression)}


@dataclass(slots=True)
class StepLayout:
    """A step in its graph. `needs`: how many steps it waits for; `dependents`: those that wait for it.

    `routes`: those that may choose it; `stands_in_for`: whose fallback it is.
    """

    step: Step
    id: StepId
    number: int
    steps_left: int
    input: Template
    more: Template | None
    """What it needs besides its input: the prompt, the approval, what a route chooses by."""
    inner: "GraphLayout | None"
    routes: frozenset[StepId] = frozenset()
    stands_in_for: StepId | None = None
    needs: int = 0
    dependents: "tuple[StepLayout, ...]" = ()


@dataclass(slots=True)
class GraphLayout:
    steps: tuple[StepLayout, ...]
    output: Any
    """The template of the graph's output."""
    budget: Budget | None
    by_id: dict[StepId, StepLayout]


_layouts: dict[int, GraphLayout] = {}


def layout_of(graph: Graph) -> GraphLayout:
    """Made once for each graph object, as many runs share one."""
    found = _layouts.get(id(graph))
    if found is None:
        found = _layouts[id(graph)] = _lay_out(graph, 0)
        weakref.finalize(graph, _layouts.pop, id(graph), None).atexit = False
    return found


def _lay_out(graph: Graph, behind: int) -> GraphLayout:
    """`behind`: steps that wait for the whole graph."""
    left = steps_left(graph)
    stands_in_for = {step.fallback: StepId(step.id) for step in graph.steps if step.fallback is not None}
    routes = _routes(graph)
    layouts: dict[str, StepLayout] = {}
    for number, step in enumerate(graph.steps):
        layout = layouts[step.id] = _step_layout(step, number, left[step.id] + behind)
        layout.routes = routes.get(layout.id, frozenset())
        layout.stands_in_for = stands_in_for.get(layout.id)
        layout.needs = len(graph.dependencies[step.id])
    dependents: dict[str, list[StepLayout]] = {name: [] for name in layouts}
    for name, layout in layouts.items():
        for needed in graph.dependencies[name]:
            dependents[needed].append(layout)
    for name, layout in layouts.items():
        layout.dependents = tuple(dependents[name])
    by_id = {layout.id: layout for layout in layouts.values()}
    return GraphLayout(tuple(layouts.values()), _output(graph, stands_in_for), graph.budget, by_id)


def _step_layout(step: Step, number: int, left: int) -> StepLayout:
    if isinstance(step.graph, str):
        raise InvalidGraph(
            f"step {step.id!r}: graph {step.graph!r} is only named", fix="see manta.graph.embed"
        )
    own = frozenset[str]()
    own |= _OF_ITEMS if step.for_each is not None else own
    own |= _OF_ROUNDS if step.repeat is not None else own
    more = step.prompt or step.approval
    fields: Mapping[str, Any] | None = more.model_dump() if more is not None else None
    if step.route is not None:
        fields = {"choose": step.route.choose}
    return StepLayout(
        step,
        StepId(step.id),
        number,
        left,
        Template(step.input, own),
        Template(fields, own) if fields is not None else None,
        _lay_out(step.graph, left) if step.graph is not None else None,
    )


def _routes(graph: Graph) -> dict[StepId, frozenset[StepId]]:
    """For each step that is in a branch the routes that may choose it."""
    found: dict[StepId, frozenset[StepId]] = {}
    for step in graph.steps:
        for target in step.route.targets() if step.route is not None else ():
            found[StepId(target)] = found.get(StepId(target), frozenset()) | {StepId(step.id)}
    return found


def _output(graph: Graph, stands_in_for: Mapping[StepId, StepId]) -> Any:
    """A graph that says nothing gives the output of its last step; a fallback is no step of its own there."""
    if graph.output is not None:
        return graph.output
    last = StepId(graph.steps[-1].id)
    while last in stands_in_for:
        last = stands_in_for[last]
    return f"${{steps.{last}}}"


def steps_left(graph: Graph) -> dict[str, int]:
    """For each step the longest chain of steps that waits for it: the critical path behind it, in steps."""
    left = dict.fromkeys((step.id for step in graph.steps), 0)
    for step in reversed(graph.steps):
        for needed in graph.dependencies[step.id]:
            # A fallback takes the place of its step; it does not lengthen the chain.
            in_its_place = graph.step(needed).fallback == step.id
            left[needed] = max(left[needed], left[step.id] + (0 if in_its_place else 1))
    return left
