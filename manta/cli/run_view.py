"""A run as it is shown: events folded into a tree of steps. Plain data that knows nothing of terminals.

The executions of sub-graphs, fan-outs and loops have keys with paths (`angles[2]/draft#3`) and events; the steps that
hold them have none. They are the sum of what lies beneath, kept up to date at a cost that does not grow with it.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from manta.errors import error_from_json
from manta.events import Event

State: TypeAlias = Literal["planned", "running", "waiting", "done", "failed", "skipped"]
"""`waiting`: for a person."""

_PART = re.compile(r"([^\[#]+)(\[\d+\])?(#\d+)?")
_AGAIN = "; again in "
_PRECEDENCE: tuple[State, ...] = ("running", "waiting", "failed", "done", "planned", "skipped")


@dataclass(slots=True)
class StepView:
    """A step or one of its executions. `pieces` counts token deltas: tokens while the step still runs."""

    key: str
    state: State = "planned"
    agent: str = ""
    attempt: int = 1
    started_at: float | None = None
    seconds: float | None = None
    tokens: int = 0
    pieces: int = 0
    note: str = ""
    children: dict[str, "StepView"] = field(default_factory=dict)
    parent: "StepView | None" = field(default=None, repr=False)
    counts: Counter[str] = field(default_factory=Counter)
    """How many executions beneath, those that have no parts themselves, are in which state."""

    @property
    def label(self) -> str:
        """The last part of the key: what is not said by the tree."""
        return self.key.rpartition("/")[2]

    @property
    def shown_tokens(self) -> int:
        return self.tokens or self.pieces

    def since(self, now: float) -> float | None:
        return None if self.started_at is None else max(0.0, now - self.started_at)


@dataclass(slots=True)
class RunView:
    graph: str = ""
    roots: dict[str, StepView] = field(default_factory=dict)
    steps: dict[str, StepView] = field(default_factory=dict)
    """Every step and execution by its key."""

    def apply(self, event: Event) -> None:
        """Fold one event in."""
        data = event.data
        if event.type in ("run_started", "run_resumed"):
            self.graph = str(data.get("graph") or self.graph)
            for name in data.get("steps") or ():
                self.step(str(name))
            return
        if event.step is None:
            return
        step = self.step(event.step)
        if step.children:
            # A step of its own kind with parts: its parts say it all.
            return
        before = step.shown_tokens
        state = _fold(step, event)
        self._moved(step, state, event.at)
        _add_tokens(step.parent, step.shown_tokens - before)

    def step(self, key: str) -> StepView:
        """The step or execution of that key, made with everything above it if it is new."""
        known = self.steps.get(key)
        if known is not None:
            return known
        above = _above(key)
        made = StepView(key)
        self.steps[key] = made
        if above is None:
            self.roots[key] = made
        else:
            parent = self.step(above)
            if not parent.children:
                # It was planned as one thing, and turns out to have parts.
                _count(parent.parent, parent.state, -1)
                parent.agent = ""
            parent.children[key] = made
            made.parent = parent
        _count(made.parent, made.state, 1)
        return made

    def _moved(self, step: StepView, state: State, at: float) -> None:
        """A step's new state, and what it means for those it is a part of."""
        _count(step.parent, step.state, -1)
        _count(step.parent, state, 1)
        step.state = state
        above = step.parent
        while above is not None:
            above.state = next((s for s in _PRECEDENCE if above.counts[s]), "planned")
            if above.started_at is None:
                above.started_at = step.started_at
            ended = above.state in ("done", "failed", "skipped")
            above.seconds = above.since(at) if ended else None
            above = above.parent


def _count(step: StepView | None, state: State, by: int) -> None:
    while step is not None:
        step.counts[state] += by
        step = step.parent


def _add_tokens(step: StepView | None, more: int) -> None:
    while step is not None:
        step.tokens += more
        step = step.parent


def _above(key: str) -> str | None:
    """`a/b[1]#2` lies in `a/b[1]`, that in `a/b`, that in `a`."""
    outer, slash, last = key.rpartition("/")
    match = _PART.fullmatch(last)
    if match is not None and match[3]:
        return key[: -len(match[3])]
    if match is not None and match[2]:
        return key[: -len(match[2])]
    return outer if slash else None


def _fold(step: StepView, event: Event) -> State:
    """What an event says of a step itself; returns its new state."""
    data = event.data
    match event.type:
        case "token":
            step.pieces += 1
        case "step_started":
            step.started_at, step.pieces, step.seconds = event.at, 0, None
            step.note = step.note.partition(_AGAIN)[0]
            step.agent = str(data.get("agent") or "")
            step.attempt = int(data.get("attempt") or 1)
            return "running"
        case "step_retried":
            delay = data.get("delay_s")
            step.note = error_text(data) + (f"{_AGAIN}{float(delay):.1f} s" if delay else "")
        case "step_waiting":
            step.started_at = step.started_at or event.at
            step.note = str(data.get("question") or data.get("reason") or "waits for a person")
            return "waiting"
        case "step_decided":
            step.note = f"{data.get('action')} by {data.get('by')}"
        case "step_done":
            usage = data.get("usage") or {}
            step.note = "" if step.state != "waiting" else step.note
            step.tokens = int(usage.get("input_tokens") or 0) + int(usage.get("output_tokens") or 0)
            step.seconds = float(data["seconds"]) if data.get("seconds") is not None else step.since(event.at)
            return "done"
        case "step_failed":
            step.note, step.seconds = error_text(data), step.since(event.at)
            return "failed"
        case "step_skipped":
            return "skipped"
        case _:
            pass
    return step.state


def error_text(data: dict[str, Any]) -> str:
    error = data.get("error")
    return str(error_from_json(error)) if isinstance(error, dict) else str(error or "")
