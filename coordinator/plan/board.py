"""What the parts of a run's plan share: what may begin, what is under way, what was noted before its time."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeAlias

from coordinator.plan.decisions import (
    Decision,
    Ended,
    Execution,
    Finished,
    Settle,
    Skip,
    Start,
    Wait,
)
from manta.errors import RunCancelled
from manta.ids import StepKey

Announcement: TypeAlias = Start | Skip | Wait | Settle
_OPEN = frozenset({"started", "waiting"})


class Owner(Protocol):
    """What is around an execution: a graph, a fan-out, a loop. `slot` is the execution's place in it."""

    def settled(self, slot: Any, state: Ended, value: Any) -> None:
        """`value` is the output, or the error of what has failed."""
        ...


class Part(Protocol):
    """An execution, a fan-out, a loop or a sub-graph that is not settled."""

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        ...


class Row(Protocol):
    """An execution that can be noted."""

    @property
    def key(self) -> StepKey: ...

    def note(self, execution: Execution) -> None: ...

    def forget(self) -> None: ...


class Board:
    """Nothing here looks at more than one execution at a time, and nothing calls itself: what follows from
    something is put behind the rest with `later`, so that depth and cost do not grow with the run.
    """

    def __init__(self, thread: Mapping[str, Any] | None, overrides: Mapping[StepKey, dict[str, Any]]) -> None:
        self.thread = thread
        self.overrides = overrides
        self.finished: Finished | None = None
        self.known: set[StepKey] = set()
        """Keys of everything noted."""
        self._starts: dict[StepKey, Start] = {}
        self._skips: dict[StepKey, Skip] = {}
        self._waits: dict[StepKey, Wait] = {}
        self._settles: dict[StepKey, Settle] = {}
        self._abandoned: dict[StepKey, None] = {}
        self._rows: dict[StepKey, Row] = {}
        self._kept: dict[StepKey, Execution] = {}
        self._open_below: dict[str, list[StepKey]] = {}
        self._todo: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()

    def later(self, call: Callable[..., None], *arguments: Any) -> None:
        self._todo.append((call, arguments))

    def work(self) -> None:
        """Do all that was put off."""
        while self._todo and self.finished is None:
            call, arguments = self._todo.popleft()
            call(*arguments)

    def decision(self) -> Decision:
        if self.finished is not None:
            return Decision(abandoned=tuple(self._abandoned), finished=self.finished)
        return Decision(
            tuple(self._starts.values()),
            tuple(self._skips.values()),
            tuple(self._waits.values()),
            tuple(self._settles.values()),
            tuple(self._abandoned),
        )

    def note(self, execution: Execution) -> None:
        key = execution.key
        self.known.add(key)
        row = self._rows.get(key)
        if row is not None:
            row.note(execution)
        elif key not in self._abandoned:
            if not _was_stopped(execution):
                self._keep(execution)
        elif execution.state not in _OPEN:
            del self._abandoned[key]

    def forget(self, key: StepKey) -> None:
        """As if it had not been noted; only of what is under way."""
        row = self._rows.get(key)
        if row is not None:
            self.known.discard(key)
            row.forget()
        elif key in self._kept:
            self.known.discard(key)
            del self._kept[key]

    def take(self, key: StepKey) -> Execution | None:
        """What was noted of an execution before its step was looked at."""
        return self._kept.pop(key, None) if self._kept else None

    def has_begun(self, key: StepKey) -> bool:
        """Whether anything was noted, before its time, of an execution or beneath it."""
        return key in self._kept or key in self._open_below

    @property
    def remembers(self) -> bool:
        """Whether anything was noted before its time at all."""
        return bool(self._kept or self._open_below)

    def _keep(self, execution: Execution) -> None:
        self._kept[execution.key] = execution
        for outer in _around(execution.key):
            below = self._open_below.setdefault(outer, [])
            if execution.state in _OPEN:
                below.append(execution.key)

    def abandon_below(self, key: StepKey) -> None:
        """Give up what was noted as under way beneath a failed step and was not looked at yet."""
        for inner in self._open_below.pop(key, ()):
            kept = self._kept.get(inner)
            if kept is not None and kept.state in _OPEN:
                del self._kept[inner]
                self._abandoned[inner] = None

    def add(self, row: Row) -> None:
        self._rows[row.key] = row

    def remove(self, row: Row, *, under_way: bool) -> None:
        del self._rows[row.key]
        if under_way:
            self._abandoned[row.key] = None

    def announce(self, announcement: Announcement) -> dict[StepKey, Any]:
        """Returns the table that it is in until it is noted."""
        match announcement:
            case Start():
                self._starts[announcement.key] = announcement
                return self._starts
            case Skip():
                self._skips[announcement.key] = announcement
                return self._skips
            case Wait():
                self._waits[announcement.key] = announcement
                return self._waits
            case Settle():
                self._settles[announcement.key] = announcement
                return self._settles


def _was_stopped(execution: Execution) -> bool:
    """Whether it was abandoned before the run was taken up: it is no cause of what was around it failing."""
    return execution.error is not None and execution.error.get("code") == RunCancelled.code


def _around(key: StepKey) -> Iterator[str]:
    """The keys of what an execution lies in: its loop, its fan-out, its sub-graph, and so on outwards."""
    for place, character in enumerate(key):
        if character in "/[#":
            yield key[:place]
