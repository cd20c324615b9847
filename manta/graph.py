"""Graphs: what steps a run has and how values flow between them. Read from YAML or built in Python.

A step starts when the steps it refers to are settled. References are explained in `manta.references`; the
values they may name are `input`, `steps.ID`, `thread`, and where they mean something `item`, `index`,
`previous`, `iteration`, `output` and `error`. A graph's version is the hash of its content.
"""

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import Field, ValidationError, model_validator

from manta.errors import InvalidGraph
from manta.ids import StepId
from manta.messages import Budget
from manta.references import REFERENCE, compile_expression, expressions, steps_in
from manta.step_parts import DEFAULT, Approval, Fallback, Part, Prompt, Repeat, Retry, Route, StepName

__all__ = [
    "DEFAULT",
    "KINDS",
    "MAX_DEPTH",
    "MAX_STEPS",
    "Approval",
    "Fallback",
    "Graph",
    "Kind",
    "Names",
    "Prompt",
    "Repeat",
    "Retry",
    "Route",
    "Step",
    "check_names",
    "embed",
    "load_graph",
    "parse_graph",
]

MAX_STEPS = 1000
"""Steps of a graph with all its sub-graphs."""
MAX_DEPTH = 8
"""Sub-graphs within sub-graphs."""
_EVERYWHERE = frozenset({"input", "steps", "thread"})
"""What references may name wherever they stand."""
GraphName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
ImportPath = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]

Kind: TypeAlias = Literal["agent", "prompt", "tool", "call", "runnable", "graph", "approval", "route"]
KINDS: tuple[Kind, ...] = ("agent", "prompt", "tool", "call", "runnable", "graph", "approval", "route")


class Step(Part):
    """One step; exactly one of the kinds says what does its work."""

    id: StepName
    agent: str | None = None
    """A pool's name."""
    prompt: Prompt | None = None
    tool: str | None = None
    """A tool's name."""
    call: ImportPath | None = None
    """A Python function of the step's input."""
    pool: str | None = Field(None, exclude_if=lambda value: value is None)
    """`call` only: the pool that does it, whose agent is a worker as well; None is `worker`."""
    runnable: ImportPath | None = None
    """A LangChain Runnable or LangGraph graph, or a function that builds one; see `agents.runnables`."""
    graph: "str | Graph | None" = None
    """A sub-graph, by name or written out; its `input` is this step's, its output this step's."""
    approval: Approval | None = None
    route: Route | None = None
    input: dict[str, Any] = {}
    needs: tuple[StepName, ...] = ()
    for_each: str | None = None
    """A reference to a list; the step runs once per item, its output is the list of outputs in order."""
    max_parallel: int = Field(16, ge=1)
    quorum: int | None = Field(None, ge=1)
    """Fan-out only: how many items must succeed; the others become null. None is all of them, or with `on_error`
    skip none. Where they are too few, `on_error` is about the step as a whole."""
    when: str | None = None
    """A reference; when its value is false, null, zero or empty the step is skipped and its output is null."""
    repeat: Repeat | None = None
    retry: Retry = Retry()
    timeout_s: float = Field(600, gt=0)
    """Seconds that one try may take; a sub-graph's steps have their own."""
    on_error: Literal["fail", "skip"] | Fallback = "fail"
    budget: Budget | None = None
    """What this step and everything beneath it may use."""
    priority: int = Field(0, ge=-100, le=100)
    """Lower goes first where places or model slots are short; added to the run's."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if isinstance(data.get("prompt"), str):
            data = {**data, "prompt": {"text": data["prompt"]}}
        if isinstance(data.get("graph"), dict):
            data = {**data, "graph": {"name": str(data.get("id")), **data["graph"]}}
        return data

    @model_validator(mode="after")
    def _sound(self) -> "Step":
        if sum(getattr(self, kind) is not None for kind in KINDS) != 1:
            raise ValueError(f"a step needs exactly one of {', '.join(KINDS)}")
        if self.pool is not None and self.call is None:
            raise ValueError("pool is for steps with call")
        if self.quorum is not None and self.for_each is None:
            raise ValueError("quorum is for steps with for_each")
        if self.kind in ("route", "approval"):
            for name in ("for_each", "repeat"):
                if getattr(self, name) is not None:
                    raise ValueError(f"a step with {self.kind} cannot have {name}; put it into a sub-graph")
        return self

    @cached_property
    def kind(self) -> Kind:
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def fallback(self) -> StepId | None:
        return StepId(self.on_error.fallback) if isinstance(self.on_error, Fallback) else None

    def expressions(self) -> Iterator[str]:
        """Every reference of this step, without its `${}`; those inside a sub-graph are the sub-graph's own."""
        parts: list[Any] = [self.input, self.for_each, self.when]
        for part in (self.prompt, self.approval, self.route, self.repeat):
            if part is not None:
                parts.append(part.model_dump())
        yield from expressions(parts)

    @cached_property
    def depends_on(self) -> frozenset[StepId]:
        """The steps whose outputs this one refers to, and those it names in `needs`."""
        referred = (name for expression in self.expressions() for name in steps_in(expression))
        return frozenset(StepId(name) for name in (*self.needs, *referred))


class Graph(Part):
    """A validated graph; `steps` are in an order in which each comes after those it needs."""

    name: GraphName
    description: str = ""
    input_schema: dict[str, Any] = {}
    """JSON Schema of the run's input."""
    chat: bool = False
    """Takes `messages` and answers with `messages`: made for threads."""
    steps: tuple[Step, ...] = Field(min_length=1, max_length=MAX_STEPS)
    output: Any = None
    """A reference, or a structure of them; None is the output of the last step."""
    timeout_s: float | None = Field(None, gt=0)
    """Seconds a run may take in all; time it waits for people counts."""
    budget: Budget | None = None
    max_active: int | None = Field(None, ge=1)
    """Runs of this graph that are at work at once, for each tenant; further ones queue."""
    semantic_cache: float | None = Field(None, ge=0.8, le=1, exclude_if=lambda value: value is None)
    """The cosine from which questions of its runs count as the same, and are given the answer that was kept. The
    run's own graph decides for its sub-graphs too."""

    @model_validator(mode="after")
    def _sound(self) -> "Graph":
        ids = Counter(step.id for step in self.steps)
        repeated = sorted(name for name, times in ids.items() if times > 1)
        if repeated:
            raise ValueError(f"step {repeated[0]!r} is there twice")
        fallbacks = _fallbacks(self.steps)
        for step in self.steps:
            _check_expressions(step, step.id in fallbacks)
            _check_names(step, ids.keys())
        _check_output(self.output, ids.keys())
        object.__setattr__(self, "steps", _in_order(self.steps, self.dependencies))
        if self.count() > MAX_STEPS:
            raise ValueError(
                f"a graph may have {MAX_STEPS} steps with its sub-graphs, this has {self.count()}"
            )
        return self

    @cached_property
    def dependencies(self) -> Mapping[str, frozenset[StepId]]:
        """For each step those that must be settled before it is looked at.

        A branch waits for its route, and a fallback for the step it stands in for; who needs a step waits for
        its fallback too, as that one's output may be its own.
        """
        stands_in = {step.id: step.fallback for step in self.steps}
        needed = {step.id: set[StepId]() for step in self.steps}
        for step in self.steps:
            for name in step.depends_on:
                part: StepId | None = name
                while part is not None and part not in needed[step.id]:
                    needed[step.id].add(part)
                    part = stands_in.get(part)
                    if part == step.id:
                        break
            for waiting in (*(step.route.targets() if step.route else ()), *filter(None, [step.fallback])):
                needed[waiting].add(StepId(step.id))
        return {name: frozenset(steps) for name, steps in needed.items()}

    @cached_property
    def plain(self) -> dict[str, Any]:
        """The graph as plain JSON values; not to be changed."""
        return self.model_dump(mode="json")

    @cached_property
    def version(self) -> str:
        """The first 12 hex digits of the SHA-256 of the content."""
        content = json.dumps(self.plain, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    def step(self, step_id: str) -> Step:
        return self._by_id[step_id]

    @cached_property
    def _by_id(self) -> dict[str, Step]:
        return {step.id: step for step in self.steps}

    def count(self) -> int:
        """Steps, with those of all written-out sub-graphs."""
        return len(self.steps) + sum(s.graph.count() for s in self.steps if isinstance(s.graph, Graph))

    def all_steps(self) -> Iterator[Step]:
        """Every step, those of written-out sub-graphs too."""
        for step in self.steps:
            yield step
            if isinstance(step.graph, Graph):
                yield from step.graph.all_steps()


@dataclass(frozen=True, slots=True)
class Names:
    """The agents and tools a platform has: what a graph's steps may name."""

    agents: frozenset[str]
    tools: frozenset[str]


def parse_graph(data: Any, origin: str = "graph") -> Graph:
    """Build a graph from plain data.

    Raises:
        InvalidGraph: with the place and the reason.
    """
    try:
        return Graph.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        cause = f"{where}: {first['msg']}" if where else first["msg"]
        raise InvalidGraph(f"{origin}: {cause}", fix="see docs/graphs.md") from None
    except RecursionError:
        raise InvalidGraph(f"{origin}: sub-graphs are nested too deep", fix="see docs/graphs.md") from None


def load_graph(path: Path) -> Graph:
    """Read a graph from a YAML file. Raises InvalidGraph."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidGraph(
            f"cannot read {path}: {' '.join(str(error).split())}", fix="check the path and the YAML"
        ) from None
    return parse_graph(data, str(path))


def embed(graph: Graph, library: Mapping[str, Graph], outer: tuple[str, ...] = ()) -> Graph:
    """The graph with every sub-graph that is named replaced by its definition: what a run keeps.

    Raises:
        InvalidGraph: a name is not in `library`, graphs contain each other, or it grows too large or deep.
    """
    if not any(step.graph is not None for step in graph.steps):
        return graph
    outer = outer or (graph.name,)
    steps = [_embedded(step, library, outer) for step in graph.steps]
    return parse_graph({**graph.model_dump(), "steps": steps}, graph.name)


def _embedded(step: Step, library: Mapping[str, Graph], outer: tuple[str, ...]) -> dict[str, Any]:
    data = step.model_dump()
    if step.graph is not None:
        inner = library.get(step.graph) if isinstance(step.graph, str) else step.graph
        if inner is None:
            there = ", ".join(sorted(library)) or "none"
            raise InvalidGraph(
                f"step {step.id!r} names graph {step.graph!r}; there are: {there}", fix="check the name"
            )
        # One that is written out has no name in the library, whatever it is called.
        path = (*outer, step.graph if isinstance(step.graph, str) else f"({step.id})")
        if step.graph in outer or len(path) > MAX_DEPTH:
            raise InvalidGraph(
                f"sub-graphs go round or too deep: {' > '.join(path)}",
                fix=f"use repeat for loops; {MAX_DEPTH} levels are allowed",
            )
        data["graph"] = embed(inner, library, path).model_dump()
    return data


def check_names(graph: Graph, names: Names) -> None:
    """Raises InvalidGraph when a step names an agent or a tool that is not there."""
    for step in graph.all_steps():
        for kind, name, known in (
            ("agent", step.agent or step.pool, names.agents),
            ("tool", step.tool, names.tools),
        ):
            if name is not None and name not in known:
                there = ", ".join(sorted(known)) or "none"
                raise InvalidGraph(
                    f"step {step.id!r} names {kind} {name!r}; there are: {there}",
                    fix=f"add it under {kind}s in manta.yaml",
                )


def _check_expressions(step: Step, is_fallback: bool) -> None:
    where = f"step {step.id!r}"
    for name, value in _single_references(step).items():
        if value is not None and not REFERENCE.fullmatch(value):
            raise ValueError(f"{where}: {name} must be one reference, ${{...}}")
    before = {*_EVERYWHERE, *(["error"] if is_fallback else [])}
    each = {*before, *(("item", "index") if step.for_each is not None else ())}
    each |= set(("previous", "iteration") if step.repeat is not None else ())
    until = step.repeat.until if step.repeat is not None else None
    parts = [part.model_dump() for part in (step.prompt, step.approval, step.route) if part is not None]
    for templates, names in (
        ([step.when, step.for_each], before),
        ([step.input, parts], each),
        ([until], each | {"output"}),
    ):
        for expression in expressions(templates):
            compile_expression(expression, where, names)


def _single_references(step: Step) -> dict[str, str | None]:
    return {
        "for_each": step.for_each,
        "when": step.when,
        "repeat.until": step.repeat.until if step.repeat is not None else None,
        "route.choose": step.route.choose if step.route is not None else None,
        "prompt.messages": step.prompt.messages if step.prompt is not None else None,
    }


def _fallbacks(steps: tuple[Step, ...]) -> frozenset[str]:
    named = Counter(step.fallback for step in steps if step.fallback is not None)
    for name, times in named.items():
        if times > 1:
            raise ValueError(f"step {name!r} is the fallback of two steps; write one for each")
    return frozenset(named)


def _check_names(step: Step, ids: Collection[str]) -> None:
    named: dict[str, frozenset[str]] = {"refers to": frozenset(step.depends_on)}
    if step.route is not None:
        named["routes to"] = step.route.targets()
    if step.fallback is not None:
        named["falls back to"] = frozenset({step.fallback})
    for how, names in named.items():
        unknown = sorted(names.difference(ids))
        if unknown:
            raise ValueError(f"step {step.id!r} {how} {unknown[0]!r}, which is no step")


def _check_output(output: Any, ids: Collection[str]) -> None:
    for expression in expressions(output):
        compile_expression(expression, "output", _EVERYWHERE)
        for name in steps_in(expression):
            if name not in ids:
                raise ValueError(f"output refers to {name!r}, which is no step")


def _in_order(steps: tuple[Step, ...], dependencies: Mapping[str, frozenset[StepId]]) -> tuple[Step, ...]:
    """Topological order that keeps the written order where it can: of the free ones the first comes next."""
    missing = {step.id: len(dependencies[step.id]) for step in steps}
    behind: dict[str, list[int]] = {step.id: [] for step in steps}
    for number, step in enumerate(steps):
        for needed in dependencies[step.id]:
            behind[needed].append(number)
    free = [number for number, step in enumerate(steps) if not missing[step.id]]
    ordered: list[Step] = []
    while free:
        ordered.append(steps[heapq.heappop(free)])
        for number in behind[ordered[-1].id]:
            missing[steps[number].id] -= 1
            if not missing[steps[number].id]:
                heapq.heappush(free, number)
    if len(ordered) < len(steps):
        stuck = ", ".join(step.id for step in steps if missing[step.id])
        raise ValueError(f"the steps need each other in a circle: {stuck}")
    return tuple(ordered)
