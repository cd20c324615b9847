"""Executions that do the work: an agent's, a tool's, a prompt's; an approval, a route."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coordinator.plan.board import Announcement, Board, Owner
from coordinator.plan.decisions import Settle, Start, Wait
from coordinator.plan.layout import StepLayout
from coordinator.plan.rows import Row
from manta.errors import StepError
from manta.graph import DEFAULT, Route
from manta.ids import StepKey
from manta.messages import Budget, Limit
from manta.references import as_text


@dataclass(frozen=True, slots=True)
class Around:
    """What steps hand down to everything beneath them."""

    limits: tuple[Limit, ...] = ()
    priority: int = 0

    def within(self, key: StepKey, budget: Budget | None, priority: int = 0) -> "Around":
        if budget is None and not priority:
            return self
        limits = self.limits if budget is None else (*self.limits, Limit(key, budget))
        return Around(limits, self.priority + priority)


class Inputs:
    """Puts together the inputs of a step's executions. What they have in common is filled in once."""

    __slots__ = ("_layout", "_more", "_shared")

    def __init__(self, layout: StepLayout) -> None:
        self._layout = layout
        self._shared: dict[str, Any] | None = None
        self._more: dict[str, Any] | None = None

    def input(self, names: Mapping[str, Any]) -> dict[str, Any]:
        """Raises StepError."""
        template = self._layout.input
        if self._shared is None:
            self._shared = template.shared(names)
        return template.fill(names, self._shared)

    def more(self, names: Mapping[str, Any]) -> dict[str, Any]:
        """What the step needs besides: the fields of its prompt, approval or route. Raises StepError."""
        template = self._layout.more
        if template is None:
            return {}
        if self._more is None:
            self._more = template.shared(names)
        return template.fill(names, self._more)


class Leaf(Row):
    """One execution of a step that is no sub-graph. `names`: what its references see."""

    __slots__ = ("_around", "_index", "_inputs", "_layout", "_names")

    def __init__(
        self,
        board: Board,
        owner: Owner,
        slot: Any,
        key: StepKey,
        layout: StepLayout,
        inputs: Inputs,
        names: Mapping[str, Any],
        index: int | None,
        around: Around,
    ) -> None:
        super().__init__(board, owner, slot, key)
        self._layout = layout
        self._inputs = inputs
        self._names = names
        self._index = index
        self._around = around

    def announcement(self) -> Announcement:
        step = self._layout.step
        try:
            own = self._inputs.input(self._names)
            more = self._inputs.more(self._names)
            override = self.board.overrides.get(self.key)
            if override is not None:
                more |= {name: value for name, value in override.items() if name in more}
                own = {name: value for name, value in override.items() if name not in more}
            if step.route is not None:
                return Settle(self.key, step, output=_branch(step.id, step.route, more["choose"]))
        except StepError as error:
            return Settle(self.key, step, error=error.to_json())
        if step.approval is not None:
            return Wait(self.key, step, {"reason": "approval", **more})
        around, left = self._around, self._layout.steps_left
        options = self._options(more)
        return Start(self.key, step, self._index, own, options, around.limits, around.priority, left)

    def _options(self, more: dict[str, Any]) -> dict[str, Any]:
        step = self._layout.step
        match step.kind:
            case "prompt":
                return {"prompt": more}
            case "tool" | "call" | "runnable" as kind:
                return {kind: getattr(step, kind)}
            case _:
                return {}


def _branch(step: str, route: Route, value: Any) -> str:
    """The name of the branch that a value chooses. Raises StepError."""
    wanted = as_text(value).strip().lower()
    for name in route.branches:
        if name.lower() == wanted:
            return name
    if route.default is None:
        there = ", ".join(route.branches)
        cause = f"route {step!r} has no branch for {as_text(value)[:80]!r}; there are {there}"
        raise StepError(cause, fix="add the branch or a default", code="no_branch")
    return DEFAULT


def chosen_by(route: Route, branch: Any) -> tuple[str, ...]:
    """The steps that a branch lets run, by the name that the route gave."""
    return route.branches.get(branch, route.default or ())
