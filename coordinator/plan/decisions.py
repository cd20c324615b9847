"""What the scheduler is told and what it tells: frozen dataclasses of plain JSON values."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from manta.graph import Step
from manta.ids import StepId, StepKey
from manta.messages import Limit

State: TypeAlias = Literal["started", "waiting", "done", "failed", "skipped"]
Ended: TypeAlias = Literal["done", "failed", "skipped"]
Error: TypeAlias = dict[str, Any]
"""An error as `MantaError.to_json` gives it."""


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution of a step, as far as it got. `failed` is for good: tries before it are not told."""

    key: StepKey
    step: StepId
    state: State
    attempt: int = 1
    output: Any = None
    error: Error | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """A step execution that may begin now, with its input already put together.

    `index`: its place in a fan-out. `options`: `{}` for an agent, else `tool`, `call` or `runnable` with the
    name, or `prompt` with its fields filled in. `limits`: the budgets of the steps and sub-graphs around it,
    outermost first, without the run's. `priority`: of those steps added up, without the run's. `steps_left`:
    the longest chain of steps that waits for it, in its graph and those around it.
    """

    key: StepKey
    step: Step
    index: int | None
    input: dict[str, Any]
    options: dict[str, Any]
    limits: tuple[Limit, ...]
    priority: int
    steps_left: int


@dataclass(frozen=True, slots=True)
class Skip:
    """A step that does not run: its condition is not met, its branch not chosen, or it is a fallback unused."""

    key: StepKey
    step: Step


@dataclass(frozen=True, slots=True)
class Wait:
    """An approval. `waiting`: `reason` (`approval`), `question`, `show`, `editable`, `timeout_s`.

    It ends by a noted `done` with the output `{decision, value, comment, by}`, or by `failed`.
    """

    key: StepKey
    step: Step
    waiting: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Settle:
    """What the scheduler has done itself: a route (`output` is its branch), or an error that needs no agent.

    Such an error is a reference that does not fit, a `for_each` that is no list, a route without a branch, a
    loop at its limit. It may be that of a fan-out, loop or sub-graph, which have no execution of their own
    otherwise.
    """

    key: StepKey
    step: Step
    output: Any = None
    error: Error | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The run is over: with an output, or with the error of the step that failed it."""

    output: Any = None
    error: Error | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do next; each part stays until it is noted. `abandoned`: executions under way that nobody waits
    for any more, as what is around them has failed; they are to be stopped and noted as failed.
    """

    starts: tuple[Start, ...] = ()
    skips: tuple[Skip, ...] = ()
    waits: tuple[Wait, ...] = ()
    settles: tuple[Settle, ...] = ()
    abandoned: tuple[StepKey, ...] = ()
    finished: Finished | None = None
