"""How a run that is going on is shown: as a tree, as lines, or as JSON."""

import json
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text
from rich.tree import Tree as RichTree

from manta.cli.run_view import RunView, StepView, error_text
from manta.events import Event
from manta.messages import to_json

MARKS = {"planned": "·", "running": "●", "waiting": "?", "done": "✓", "failed": "✗", "skipped": "–"}
STYLES = {
    "planned": "dim",
    "running": "cyan",
    "waiting": "yellow",
    "done": "green",
    "failed": "red",
    "skipped": "dim",
}
MOST_PARTS = 12
"""Executions of one step that are drawn; a fan-out may have thousands."""
_WORTH_DRAWING = ("running", "waiting", "failed")


class Watcher(Protocol):
    """A way to show a run. Used as a context manager around its events."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def see(self, event: Event) -> None: ...


class Tree:
    """A tree that is redrawn in place, for terminals. What is done is drawn closed."""

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
        for step in self._view.roots.values():
            _draw_step(tree, step, time.time())
        return tree


def _draw_step(tree: RichTree, step: StepView, now: float) -> None:
    name, drawn_for = step.label, step
    while drawn_for.state in _WORTH_DRAWING and len(drawn_for.children) == 1:
        # One thing inside another is one line.
        (part,) = drawn_for.children.values()
        inner = part.key.startswith(f"{drawn_for.key}/")
        name = f"{name}/{part.label}" if inner else name.removesuffix(drawn_for.label) + part.label
        drawn_for = part
    step = drawn_for
    branch = tree.add(Text(step_line(step, now, name), style=STYLES[step.state]))
    if step.state not in _WORTH_DRAWING:
        return
    drawn = list(_parts_to_draw(step))
    for part in drawn:
        _draw_step(branch, part, now)
    hidden = len(step.children) - len(drawn)
    if hidden and len(drawn) == MOST_PARTS:
        branch.add(Text(f"… {hidden} more", style="dim"))


def _parts_to_draw(step: StepView) -> Iterator[StepView]:
    """All if they are few, else those that something happens in, in order."""
    few = len(step.children) <= MOST_PARTS
    parts = (part for part in step.children.values() if few or part.state in _WORTH_DRAWING)
    for _, part in zip(range(MOST_PARTS), sorted(parts, key=_place), strict=False):
        yield part


def _place(part: StepView) -> int:
    """Items and rounds by their number, steps of a sub-graph as they came."""
    digits = part.label.rpartition("#")[2] if "#" in part.label else part.label.partition("[")[2].rstrip("]")
    return int(digits) if digits.isdigit() else 0


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


def step_line(step: StepView, now: float, name: str = "") -> str:
    """A step with state, tokens and seconds: `✓ plan  planner  120 tokens  3.1 s`; `name` instead of its key."""
    parts = [f"{MARKS[step.state]} {name or step.key}"]
    if step.agent:
        parts.append(step.agent)
    if step.children:
        parts.append(_tally(step))
    if step.shown_tokens:
        parts.append(f"{step.shown_tokens} tokens")
    seconds = step.seconds
    if seconds is None and step.state == "running":
        seconds = step.since(now)
    if seconds is not None:
        parts.append(f"{seconds:.1f} s")
    if step.attempt > 1:
        parts.append(f"attempt {step.attempt}")
    if step.note:
        parts.append(step.note)
    return "  ".join(parts)


def _tally(step: StepView) -> str:
    """`3/5 done, 1 failed`: of the executions beneath."""
    counts = step.counts
    skipped = counts["skipped"]
    told = [f"{counts['done']}/{sum(counts.values()) - skipped} done"]
    told += [f"{counts[state]} {state}" for state in ("waiting", "failed", "skipped") if counts[state]]
    return ", ".join(told)


def event_line(event: Event, view: RunView) -> str:
    """A plain line for an event that was just folded into `view`; empty for those not worth one."""
    stamp = time.strftime("%H:%M:%S", time.localtime(event.at))
    if event.type == "run_started":
        return f"{stamp} run {event.run} started: {view.graph}"
    if event.type in ("run_failed", "run_cancelled"):
        return f"{stamp} {event.type.replace('_', ' ')}: {error_text(event.data)}".rstrip(": ")
    if event.type == "run_waiting":
        return f"{stamp} run waiting for a person: {', '.join(map(str, event.data.get('steps') or ()))}"
    if event.type.startswith("run_"):
        return f"{stamp} {event.type.replace('_', ' ')}"
    if event.step is None or event.type in ("token", "call_done"):
        return ""
    what = event.type.removeprefix("step_")
    return f"{stamp} {what}: {step_line(view.steps[event.step], event.at)}"
