"""What is ready, and when a run is over: a pure function of the graph and what has happened so far.

Dataflow readiness: a step may start when the steps it needs are settled, whatever its siblings do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from manta.errors import StepError
from manta.graph import Graph, Step, resolve
from manta.ids import StepId, StepKey, step_key

MAX_ITEMS = 10_000
"""Items of one fan-out."""

State: TypeAlias = Literal["started", "done", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution of a step, as far as it got. A fan-out has one per item."""

    key: StepKey
    step: StepId
    index: int | None
    state: State
    attempt: int = 1
    output: Any = None
    error: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """A step execution that may begin now, with its input already put together."""

    key: StepKey
    step: Step
    index: int | None
    input: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Skip:
    """A step whose condition is not met."""

    key: StepKey
    step: Step


@dataclass(frozen=True, slots=True)
class Finished:
    """The run is over: with an output, or with the error of the step that failed it."""

    output: Any = None
    error: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    starts: tuple[Start, ...] = ()
    skips: tuple[Skip, ...] = ()
    finished: Finished | None = None


@dataclass(slots=True)
class _View:
    """The steps settled so far, in graph order."""

    input: Any
    outputs: dict[str, Any] = field(default_factory=dict)
    error: dict[str, str] | None = None

    def scope(self, item: Any = None) -> dict[str, Any]:
        return {"input": self.input, "steps": self.outputs, "item": item}


def decide(graph: Graph, run_input: Any, executions: Mapping[StepKey, Execution]) -> Decision:
    """Decide what to do next. Executions in state `started` are running and are left alone."""
    view = _View(run_input)
    starts: list[Start] = []
    skips: list[Skip] = []
    try:
        for step in graph.steps:
            if not step.depends_on <= view.outputs.keys():
                continue
            _consider(step, view, executions, starts, skips)
            if view.error is not None:
                return Decision(finished=Finished(error=view.error))
        if len(view.outputs) < len(graph.steps):
            return Decision(tuple(starts), tuple(skips))
        return Decision(finished=Finished(output=_output(graph, view)))
    except StepError as error:
        return Decision(finished=Finished(error=error.to_json()))


def _output(graph: Graph, view: _View) -> Any:
    if graph.output is None:
        return view.outputs[graph.steps[-1].id]
    return resolve(graph.output, view.scope())


def steps_left(graph: Graph) -> dict[str, int]:
    """For each step the longest chain of steps that waits for it: the critical path behind it, in steps."""
    depth = dict.fromkeys((step.id for step in graph.steps), 0)
    for step in reversed(graph.steps):
        for needed in step.depends_on:
            depth[needed] = max(depth[needed], depth[step.id] + 1)
    return depth


def _consider(
    step: Step,
    view: _View,
    executions: Mapping[StepKey, Execution],
    starts: list[Start],
    skips: list[Skip],
) -> None:
    """Settle the step in `view`, or add what may begin of it."""
    whole = executions.get(step_key(StepId(step.id)))
    if whole is not None and whole.state == "skipped":
        view.outputs[step.id] = None
    elif step.when is not None and not resolve(step.when, view.scope()):
        skips.append(Skip(step_key(StepId(step.id)), step))
    elif step.for_each is not None:
        _consider_fan_out(step, view, executions, starts)
    elif whole is None:
        starts.append(Start(step_key(StepId(step.id)), step, None, resolve(step.input, view.scope())))
    else:
        _settle(step, whole, view)


def _settle(step: Step, execution: Execution, view: _View) -> None:
    if execution.state == "done":
        view.outputs[step.id] = execution.output
    elif execution.state == "failed":
        if step.on_error == "skip":
            view.outputs[step.id] = None
        else:
            view.error = execution.error


def _consider_fan_out(
    step: Step, view: _View, executions: Mapping[StepKey, Execution], starts: list[Start]
) -> None:
    items = resolve(step.for_each, view.scope())
    if not isinstance(items, list):
        kind = "nothing" if items is None else type(items).__name__
        cause = f"for_each of step {step.id!r} must be a list, it is {kind}"
        view.error = StepError(cause, fix="check the reference", code="invalid_fan_out").to_json()
        return
    if len(items) > MAX_ITEMS:
        cause = f"for_each of step {step.id!r} has {len(items)} items, {MAX_ITEMS} are allowed"
        view.error = StepError(cause, fix="split the list", code="invalid_fan_out").to_json()
        return
    runs = [executions.get(step_key(StepId(step.id), index)) for index in range(len(items))]
    failed = [run for run in runs if run is not None and run.state == "failed"]
    tolerated = len(items) if step.on_error == "skip" else len(items) - (step.quorum or len(items))
    if len(failed) > max(tolerated, 0):
        view.error = failed[0].error
        return
    if all(run is not None and run.state in ("done", "failed") for run in runs):
        view.outputs[step.id] = [run.output if run and run.state == "done" else None for run in runs]
        return
    free = step.max_parallel - sum(run is not None and run.state == "started" for run in runs)
    starts.extend(_item_starts(step, view, items, runs, free))


def _item_starts(
    step: Step, view: _View, items: Sequence[Any], runs: Sequence[Execution | None], free: int
) -> list[Start]:
    new = [index for index, run in enumerate(runs) if run is None][: max(free, 0)]
    return [
        Start(
            step_key(StepId(step.id), index),
            step,
            index,
            resolve(step.input, {**view.scope(items[index]), "index": index}),
        )
        for index in new
    ]
