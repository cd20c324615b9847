"""Graphs: what steps a run has and how values flow between them. Read from YAML or built in Python.

A step starts when the steps it refers to are done. References are `${...}` around a JMESPath expression
over `{"input": ..., "steps": {id: output}, "item": ...}`; a string that is one reference keeps the value's
type, references inside a longer string become text. A graph's version is the hash of its content.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import jmespath
import jmespath.exceptions
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from manta.errors import InvalidGraph, StepError
from manta.ids import StepId

REFERENCE = re.compile(r"\$\{([^}]*)\}")
MAX_STEPS = 1000
_STEP_FIELDS = re.compile(r"(?<![\w.])steps\.([a-z][a-z0-9_]*)")
StepName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


class Retry(BaseModel):
    """Tries of a step, with exponential backoff and full jitter between `min_s` and `max_s` seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    attempts: int = Field(3, ge=1, le=100)
    min_s: float = Field(4, ge=0)
    max_s: float = Field(10, ge=0)


class Step(BaseModel):
    """One step. Exactly one of `agent` (a pool's name), `tool` (a tool's name) or `call` (an import path)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: StepName
    agent: str | None = None
    tool: str | None = None
    call: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    input: dict[str, Any] = {}
    needs: tuple[StepName, ...] = ()
    for_each: str | None = None
    """A reference to a list; the step runs once per item, its output is the list of outputs in order."""
    max_parallel: int = Field(16, ge=1)
    quorum: int | None = Field(None, ge=1)
    """Fan-out only: how many items must succeed; the others become null. None is all of them."""
    when: str | None = None
    """A reference; when its value is false, null or empty the step is skipped and its output is null."""
    retry: Retry = Retry()
    timeout_s: float = Field(600, gt=0)
    on_error: Literal["fail", "skip"] = "fail"

    @model_validator(mode="after")
    def _one_kind(self) -> "Step":
        if sum(kind is not None for kind in (self.agent, self.tool, self.call)) != 1:
            raise ValueError("a step needs exactly one of agent, tool, call")
        if self.quorum is not None and self.for_each is None:
            raise ValueError("quorum is for steps with for_each")
        return self

    def expressions(self) -> Iterator[str]:
        """Every reference of this step, without its `${}`."""
        yield from _expressions([self.input, self.for_each, self.when])

    @cached_property
    def depends_on(self) -> frozenset[StepId]:
        """The steps whose outputs this one refers to, and those it names in `needs`."""
        referred = (name for expression in self.expressions() for name in _STEP_FIELDS.findall(expression))
        return frozenset(StepId(name) for name in (*self.needs, *referred))


class Graph(BaseModel):
    """A validated graph; `steps` are in an order in which each comes after those it needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
    description: str = ""
    input_schema: dict[str, Any] = {}
    """JSON Schema of the run's input."""
    steps: tuple[Step, ...] = Field(min_length=1, max_length=MAX_STEPS)
    output: Any = None
    """A reference, or a structure of them; None is the output of the last step."""

    @model_validator(mode="after")
    def _sound(self) -> "Graph":
        ids = [step.id for step in self.steps]
        repeated = {i for i in ids if ids.count(i) > 1}
        if repeated:
            raise ValueError(f"step {sorted(repeated)[0]!r} is there twice")
        for step in self.steps:
            _check_expressions(step)
            unknown = sorted(step.depends_on - set(ids))
            if unknown:
                raise ValueError(f"step {step.id!r} refers to {unknown[0]!r}, which is no step")
        _check_output(self.output, set(ids))
        object.__setattr__(self, "steps", _in_order(self.steps))
        return self

    @property
    def version(self) -> str:
        """The first 12 hex digits of the SHA-256 of the content."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    def step(self, step_id: str) -> Step:
        return next(step for step in self.steps if step.id == step_id)


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


def load_graph(path: Path) -> Graph:
    """Read a graph from a YAML file. Raises InvalidGraph."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidGraph(
            f"cannot read {path}: {' '.join(str(error).split())}", fix="check the path and the YAML"
        ) from None
    return parse_graph(data, str(path))


def check_names(graph: Graph, names: Names) -> None:
    """Raises InvalidGraph when a step names an agent or a tool that is not there."""
    for step in graph.steps:
        for kind, name, known in (("agent", step.agent, names.agents), ("tool", step.tool, names.tools)):
            if name is not None and name not in known:
                there = ", ".join(sorted(known)) or "none"
                raise InvalidGraph(
                    f"step {step.id!r} names {kind} {name!r}; there are: {there}",
                    fix=f"add it under {kind}s in manta.yaml",
                )


def resolve(template: Any, scope: Mapping[str, Any]) -> Any:
    """Replace the references in `template` by the values in `scope`; a missing value is None.

    Raises:
        StepError: a reference does not fit the values, `length(input.n)` of a number say.
    """
    if isinstance(template, str):
        whole = REFERENCE.fullmatch(template)
        if whole:
            return _search(whole.group(1), scope)
        return REFERENCE.sub(lambda m: _as_text(_search(m.group(1), scope)), template)
    if isinstance(template, Mapping):
        return {key: resolve(value, scope) for key, value in template.items()}
    if isinstance(template, list | tuple):
        return [resolve(value, scope) for value in template]
    return template


def _search(expression: str, scope: Mapping[str, Any]) -> Any:
    try:
        return jmespath.search(expression, scope)
    except jmespath.exceptions.JMESPathError as error:
        cause = f"${{{expression}}} does not fit the values: {' '.join(str(error).split())[:200]}"
        raise StepError(
            cause, fix="mend the reference, or the step before it", code="bad_reference"
        ) from None


def _as_text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _expressions(template: Any) -> Iterator[str]:
    if isinstance(template, str):
        yield from (m.group(1) for m in REFERENCE.finditer(template))
    elif isinstance(template, Mapping):
        for value in template.values():
            yield from _expressions(value)
    elif isinstance(template, list | tuple):
        for value in template:
            yield from _expressions(value)


def _check_expressions(step: Step) -> None:
    for name, value in (("for_each", step.for_each), ("when", step.when)):
        if value is not None and not REFERENCE.fullmatch(value):
            raise ValueError(f"step {step.id!r}: {name} must be one reference, ${{...}}")
    for expression in step.expressions():
        _compile(expression, f"step {step.id!r}")


def _check_output(output: Any, ids: set[str]) -> None:
    for expression in _expressions(output):
        _compile(expression, "output")
        for name in _STEP_FIELDS.findall(expression):
            if name not in ids:
                raise ValueError(f"output refers to {name!r}, which is no step")


def _compile(expression: str, where: str) -> None:
    try:
        jmespath.compile(expression)
    except jmespath.exceptions.JMESPathError as error:
        raise ValueError(
            f"{where}: ${{{expression}}} is not JMESPath: {str(error).splitlines()[0]}"
        ) from None


def _in_order(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Topological order that keeps the written order where it can (Kahn's algorithm)."""
    waiting = {step.id: set(step.depends_on) for step in steps}
    ordered: list[Step] = []
    while len(ordered) < len(steps):
        done = {step.id for step in ordered}
        free = [step for step in steps if step.id not in done and waiting[step.id] <= done]
        if not free:
            stuck = ", ".join(step.id for step in steps if step.id not in done)
            raise ValueError(f"the steps need each other in a circle: {stuck}")
        ordered.extend(free)
    return tuple(ordered)
