"""How a run that is going on is shown: events folded into a view, and three ways to print it.

`RunView` is plain data and knows nothing of terminals; `Tree`, `Lines` and `JsonLines` print it.
"""

import json
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text
from rich.tree import Tree as RichTree

from manta.errors import error_from_json
from manta.events import Event
from manta.messages import to_json

_MARKS = {"waiting": "·", "running": "●", "done": "✓", "failed": "✗", "skipped": "–"}
_STYLES = {"waiting": "dim", "running": "cyan", "done": "green", "failed": "red", "skipped": "dim"}


@dataclass(slots=True)
class StepView:
    """One step execution as it is shown. `pieces` counts token deltas: tokens while the step still runs."""

    state: str = "waiting"
    agent: str = ""
    attempt: int = 1
    started_at: float | None = None
    seconds: float | None = None
    tokens: int = 0
    pieces: int = 0
    note: str = ""


@dataclass(slots=True)
class RunView:
    graph: str = ""
    steps: dict[str, StepView] = field(default_factory=dict)
    planned: tuple[str, ...] = ()

    def apply(self, event: Event) -> None:
        """Fold one event in."""
        data = event.data
        if event.type in ("run_started", "run_resumed"):
            self.graph = str(data.get("graph") or self.graph)
            self.planned = tuple(str(s) for s in data.get("steps") or self.planned)
            for name in self.planned:
                self.steps.setdefault(name, StepView())
            return
        if event.step is None:
            return
        _fold(self.steps.setdefault(event.step, StepView()), event)
        if _base(event.step) != event.step:
            self._roll_up(_base(event.step), event.at)

    def _roll_up(self, base: str, at: float) -> None:
        """The executions of a fan-out have events, the step itself has none: it is their sum."""
        parts = [step for key, step in self.steps.items() if _base(key) == base != key]
        states = {step.state for step in parts}
        state = next((s for s in ("running", "failed", "done") if s in states), "waiting")
        whole = self.steps.setdefault(base, StepView())
        whole.state = state
        whole.tokens = sum(step.tokens or step.pieces for step in parts)
        whole.started_at = min((s.started_at for s in parts if s.started_at is not None), default=None)
        whole.seconds = None if state == "running" else _since(whole, at)

    def ordered(self) -> list[tuple[str, StepView]]:
        """Steps in the graph's order, each followed by its executions in theirs."""
        place = {name: n for n, name in enumerate(self.planned)}
        return sorted(
            self.steps.items(), key=lambda item: (place.get(_base(item[0]), len(place)), *_index(item[0]))
        )


def _fold(step: StepView, event: Event) -> None:
    data = event.data
    if event.type == "token":
        step.pieces += 1
    elif event.type == "step_started":
        step.state, step.started_at, step.pieces = "running", event.at, 0
        step.agent = str(data.get("agent") or "")
        step.attempt = int(data.get("attempt") or 1)
    elif event.type == "step_retried":
        step.note = _error_text(data)
    elif event.type == "step_done":
        usage = data.get("usage") or {}
        step.state, step.note = "done", ""
        step.tokens = int(usage.get("input_tokens") or 0) + int(usage.get("output_tokens") or 0)
        step.seconds = float(data["seconds"]) if data.get("seconds") is not None else _since(step, event.at)
    elif event.type == "step_failed":
        step.state, step.note, step.seconds = "failed", _error_text(data), _since(step, event.at)
    elif event.type == "step_skipped":
        step.state = "skipped"


class Watcher(Protocol):
    """A way to show a run. Used as a context manager around its events."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def see(self, event: Event) -> None: ...


class Tree:
    """A tree that is redrawn in place, for terminals."""

    def __init__(self, console: Console) -> None:
        self._view = RunView()
        self._live = Live(console=console, get_renderable=self._draw, refresh_per_second=4, transient=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def see(self, event: Event) -> None:
        self._view.apply(event)

    def _draw(self) -> RichTree:
        tree = RichTree(Text(self._view.graph or "waiting for the run", style="bold"))
        nodes: dict[str, RichTree] = {}
        for key, step in self._view.ordered():
            parent = nodes.get(_base(key), tree) if _base(key) != key else tree
            nodes[key] = parent.add(Text(step_line(key, step, time.time()), style=_STYLES[step.state]))
        return tree


class Lines:
    """One line with a time stamp for each event worth one, for files and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._view = RunView()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def see(self, event: Event) -> None:
        self._view.apply(event)
        line = event_line(event, self._view)
        if line:
            self._console.print(Text(line))


class JsonLines:
    """Every event as one line of JSON, token deltas too, for programs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def see(self, event: Event) -> None:
        self._console.print(json.dumps(to_json(event), ensure_ascii=False), markup=False)


def watcher(console: Console, as_json: bool) -> Watcher:
    if as_json:
        return JsonLines(console)
    return Tree(console) if console.is_terminal else Lines(console)


def step_line(key: str, step: StepView, now: float) -> str:
    """A step with state, tokens and seconds: `✓ plan  planner  120 tokens  3.1 s`."""
    parts = [f"{_MARKS[step.state]} {key}"]
    if step.agent:
        parts.append(step.agent)
    if step.tokens or step.pieces:
        parts.append(f"{step.tokens or step.pieces} tokens")
    seconds = step.seconds
    if seconds is None and step.state == "running":
        seconds = _since(step, now)
    if seconds is not None:
        parts.append(f"{seconds:.1f} s")
    if step.attempt > 1:
        parts.append(f"attempt {step.attempt}")
    if step.note:
        parts.append(step.note)
    return "  ".join(parts)


def event_line(event: Event, view: RunView) -> str:
    """A plain line for an event that was just folded into `view`; empty for those not worth one."""
    stamp = time.strftime("%H:%M:%S", time.localtime(event.at))
    if event.type == "run_started":
        return f"{stamp} run {event.run} started: {view.graph}"
    if event.type in ("run_failed", "run_cancelled"):
        return f"{stamp} {event.type.replace('_', ' ')}: {_error_text(event.data)}".rstrip(": ")
    if event.type.startswith("run_"):
        return f"{stamp} {event.type.replace('_', ' ')}"
    if event.step is None or event.type in ("token", "call_done"):
        return ""
    what = event.type.removeprefix("step_")
    return f"{stamp} {what}: {step_line(event.step, view.steps[event.step], event.at)}"


def _error_text(data: dict[str, object]) -> str:
    error = data.get("error")
    return str(error_from_json(error)) if isinstance(error, dict) else str(error or "")


def _since(step: StepView, now: float) -> float | None:
    return None if step.started_at is None else max(0.0, now - step.started_at)


def _base(key: str) -> str:
    return key.partition("[")[0]


def _index(key: str) -> tuple[str, int]:
    base, bracket, rest = key.partition("[")
    number = rest.rstrip("]")
    return base, int(number) if bracket and number.isdigit() else -1
