"""Which executions of a run depend on which: read from the graph and the keys alone."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from manta.errors import NotFound
from manta.graph import Graph
from manta.ids import StepId, StepKey

_PART = re.compile(r"([a-z][a-z0-9_]*)(?:\[(\d+)\])?(?:#(\d+))?")


@dataclass(frozen=True, slots=True)
class _Part:
    """A key's part between slashes."""

    step: StepId
    index: int | None
    iteration: int | None


def downstream(graph: Graph, key: StepKey, keys: Iterable[StepKey]) -> frozenset[StepKey]:
    """Those of `keys` that depend on `key`, itself and what is beneath it included.

    Raises:
        NotFound: the graph has no such execution.
    """
    target = tuple(_parts(key))
    behind = _behind_each(graph, key, target)
    return frozenset(other for other in keys if _depends(tuple(_parts(other)), target, behind))


def _parts(key: StepKey) -> Iterator[_Part]:
    for text in key.split("/"):
        match = _PART.fullmatch(text)
        if match is None:
            raise NotFound(f"{key!r} is no key of a step execution")
        step, index, iteration = match.groups()
        yield _Part(
            StepId(step), None if index is None else int(index), None if iteration is None else int(iteration)
        )


def _behind_each(graph: Graph, key: StepKey, target: tuple[_Part, ...]) -> list[frozenset[str]]:
    """For each part of the key the steps of its graph that need it, by way of others too."""
    behind: list[frozenset[str]] = []
    inner: Graph | str | None = graph
    for part in target:
        if not isinstance(inner, Graph) or part.step not in inner.dependencies:
            raise NotFound(f"the graph {graph.name!r} has no step execution {key!r}")
        behind.append(_that_need(inner, part.step))
        inner = inner.step(part.step).graph
    return behind


def _that_need(graph: Graph, step: StepId) -> frozenset[str]:
    found: set[str] = {step}
    # The steps are in an order in which each comes after those it needs.
    for other in graph.steps:
        if not found.isdisjoint(graph.dependencies[other.id]):
            found.add(other.id)
    return frozenset(found - {step})


def _depends(parts: tuple[_Part, ...], target: tuple[_Part, ...], behind: list[frozenset[str]]) -> bool:
    """The two are compared from the outermost part on, until they differ."""
    for part, aim, later in zip(parts, target, behind, strict=False):
        if part.step in later:
            return True
        if part.step != aim.step:
            return False
        if aim.index is not None and part.index != aim.index:
            # Items do not see each other; the fan-out as a whole depends on each of them.
            return part.index is None
        if aim.iteration is not None and part.iteration != aim.iteration:
            return part.iteration is None or part.iteration > aim.iteration
    # One contains the other: what is beneath depends on it, and what is around it is not done without it.
    return True
