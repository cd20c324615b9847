"""The scheduler's meaning, written down slowly: from nothing but the graph and the rows, all anew each time.

What `Progress` keeps up to date is worked out here by plain recursion, as a check on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from manta.errors import StepError
from manta.graph import Graph, Step
from manta.ids import StepId, StepKey, step_key
from manta.references import as_text, resolve

OPEN = ("started", "waiting")


@dataclass(frozen=True)
class End:
    """`state`: done, failed, skipped."""

    state: str
    value: Any = None


@dataclass
class Naive:
    """`rows`: executions by key as (state, value). The sets are the keys that a decision should hold."""

    graph: Graph
    input: Any
    rows: Mapping[StepKey, tuple[str, Any]]
    starts: dict[StepKey, dict[str, Any]] = field(default_factory=dict)
    skips: set[StepKey] = field(default_factory=set)
    waits: set[StepKey] = field(default_factory=set)
    settles: dict[StepKey, Any] = field(default_factory=dict)
    abandoned: set[StepKey] = field(default_factory=set)
    errors: list[Any] = field(default_factory=list)
    """Of the graph's own steps: any of them may end the run."""
    finished: End | None = None

    def __post_init__(self) -> None:
        self.finished = self._scope("", None, self.graph, self.input)

    def _scope(self, prefix: str, step: Step | None, graph: Graph, given: Any) -> End | None:
        names: dict[str, Any] = {"input": given, "steps": {}, "thread": None}
        ends: dict[str, End] = {}
        errors: list[Any] = []
        for inner in graph.steps:
            if not graph.dependencies[inner.id] <= ends.keys():
                continue
            end = self._step(prefix, inner, graph, names, ends)
            if end is None:
                continue
            ends[inner.id] = end
            if end.state == "failed" and inner.on_error == "fail":
                errors.append(end.value)
            main = _main(graph, inner)
            if end.state == "skipped" and main is not None and ends[main].state == "failed":
                errors.append(ends[main].value)
            self._give(graph, inner, end, ends, names["steps"])
        if errors:
            self._give_up(prefix, whole_run=step is None)
            self.errors = errors
            return End("failed", errors[0])
        if len(ends) < len(graph.steps):
            return None
        try:
            return End("done", resolve(_output(graph), names))
        except StepError as error:
            if step is None:
                self.errors = [error.to_json()]
                return End("failed", error.to_json())
            return self._settle(StepKey(prefix), error=error)

    def _give(self, graph: Graph, step: Step, end: End, ends: Mapping[str, End], outputs: Any) -> None:
        if end.state == "failed" and step.on_error != "skip":
            return
        outputs[step.id] = end.value if end.state == "done" else None
        main = _main(graph, step)
        while main is not None and ends[main].state == "failed":
            outputs[main] = outputs[step.id]
            main = _main(graph, graph.step(main))

    def _give_up(self, prefix: str, *, whole_run: bool) -> None:
        """A graph has failed: nothing beneath it begins, and what is under way there is left behind."""

        def within(key: str) -> bool:
            return whole_run or key.startswith((f"{prefix}/", f"{prefix}[", f"{prefix}#")) or key == prefix

        for table in (self.starts, self.settles):
            for key in [key for key in table if within(key)]:
                del table[key]
        self.skips = {key for key in self.skips if not within(key)}
        self.waits = {key for key in self.waits if not within(key)}
        if not whole_run:
            self.abandoned |= {
                key
                for key, (state, _) in self.rows.items()
                if state in OPEN and within(key) and key != prefix
            }

    def _step(
        self, prefix: str, step: Step, graph: Graph, names: dict[str, Any], ends: Mapping[str, End]
    ) -> End | None:
        key = step_key(StepId(step.id), parent=prefix)
        if not self._begun(key):
            try:
                if not _wanted(step, graph, names, ends):
                    self.skips.add(key)
                    return None
            except StepError as error:
                return self._settle(key, error=error)
        main = _main(graph, step)
        if main is not None:
            names = {**names, "error": ends[main].value if ends[main].state == "failed" else None}
        if step.for_each is not None:
            return self._fan_out(key, step, names)
        return self._unit(key, step, names)

    def _fan_out(self, key: StepKey, step: Step, names: dict[str, Any]) -> End | None:
        row = self._ended(key)
        if row is not None:
            return row
        try:
            items = resolve(step.for_each, names)
            if not isinstance(items, list):
                raise StepError("", code="invalid_fan_out")
        except StepError as error:
            return self._settle(key, error=error)
        keys = [step_key(StepId(step.id), n, parent=key.rpartition("/")[0]) for n in range(len(items))]
        ends: list[End | None] = [None] * len(items)
        places = step.max_parallel
        turns = sorted(range(len(items)), key=lambda n: (not self._begun(keys[n]), n))
        for n in turns:
            if places == 0:
                break
            ends[n] = self._unit(keys[n], step, {**names, "item": items[n], "index": n})
            places -= ends[n] is None
        failed = [end for end in ends if end is not None and end.state == "failed"]
        tolerated = len(items) if step.on_error == "skip" else 0
        if step.quorum is not None:
            tolerated = max(0, len(items) - step.quorum)
        if len(failed) > tolerated:
            self._give_up(key, whole_run=False)
            return failed[0]
        if None in ends:
            return None
        return End("done", [end.value if end and end.state == "done" else None for end in ends])

    def _unit(self, key: StepKey, step: Step, names: dict[str, Any]) -> End | None:
        if step.repeat is None:
            return self._execution(key, step, names)
        row = self._ended(key)
        if row is not None:
            return row
        previous = None
        for iteration in range(1, step.repeat.max + 1):
            names = {**names, "previous": previous, "iteration": iteration}
            end = self._execution(StepKey(f"{key}#{iteration}"), step, names)
            if end is None or end.state == "failed":
                return end
            previous = end.value
            try:
                if resolve(step.repeat.until, {**names, "output": previous}):
                    return End("done", previous)
            except StepError as error:
                return self._settle(key, error=error)
        if step.repeat.on_limit == "accept":
            return End("done", previous)
        return self._settle(key, error=StepError("", code="loop_limit"))

    def _execution(self, key: StepKey, step: Step, names: dict[str, Any]) -> End | None:
        row = self._ended(key)
        if row is not None:
            return row
        if self.rows.get(key, ("",))[0] in OPEN:
            return None
        try:
            given = resolve(step.input, names)
            if isinstance(step.graph, Graph):
                return self._scope(key, step, step.graph, given)
            for part in (step.prompt, step.approval):
                resolve(part.model_dump() if part else None, names)
            if step.route is not None:
                return self._settle(key, branch=_branch(step, names))
        except StepError as error:
            return self._settle(key, error=error)
        if step.approval is not None:
            self.waits.add(key)
        else:
            self.starts[key] = given
        return None

    def _settle(
        self, key: StepKey, *, branch: str | None = None, error: StepError | None = None
    ) -> End | None:
        row = self._ended(key)
        if row is not None:
            return row
        self.settles[key] = error.code if error is not None else branch
        return None

    def _ended(self, key: StepKey) -> End | None:
        state, value = self.rows.get(key, ("none", None))
        return End(state, value) if state in ("done", "failed", "skipped") else None

    def _begun(self, key: StepKey) -> bool:
        return key in self.rows or any(k.startswith((f"{key}/", f"{key}[", f"{key}#")) for k in self.rows)


def _main(graph: Graph, fallback: Step) -> str | None:
    return next((step.id for step in graph.steps if step.fallback == fallback.id), None)


def _output(graph: Graph) -> Any:
    last = graph.steps[-1].id
    while (main := _main(graph, graph.step(last))) is not None:
        last = main
    return graph.output if graph.output is not None else f"${{steps.{last}}}"


def _wanted(step: Step, graph: Graph, names: dict[str, Any], ends: Mapping[str, End]) -> bool:
    routes = [other for other in graph.steps if other.route and step.id in other.route.targets()]
    if routes and not any(step.id in _chosen(route, ends[route.id]) for route in routes):
        return False
    main = _main(graph, step)
    if main is not None:
        if ends[main].state != "failed":
            return False
        names = {**names, "error": ends[main].value}
    return step.when is None or bool(resolve(step.when, names))


def _chosen(step: Step, end: End) -> tuple[str, ...]:
    assert step.route is not None
    if end.state != "done":
        return ()
    return step.route.branches.get(end.value, step.route.default or ())


def _branch(step: Step, names: dict[str, Any]) -> str:
    assert step.route is not None
    text = as_text(resolve(step.route.choose, names)).strip().lower()
    for name in step.route.branches:
        if name.lower() == text:
            return name
    if step.route.default is None:
        raise StepError("", code="no_branch")
    return "default"
