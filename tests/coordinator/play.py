"""A run without a coordinator: announces are noted at once, and the test says how executions end."""

from typing import Any

from coordinator.keys import step_of
from coordinator.scheduler import Execution, Finished, Progress, Settle, Start, Wait
from manta.graph import KINDS, Graph, parse_graph
from manta.ids import StepId, StepKey
from manta.messages import to_json

ERROR = {"code": "x", "message": "m", "fix": "", "retryable": False}


# A step with a fallback, and one that needs it.
RESCUED = [
    {"id": "main", "on_error": {"fallback": "rescue"}},
    {"id": "rescue", "input": {"why": "${error.code}"}},
    {"id": "after", "input": {"m": "${steps.main}"}},
]

# A route to a step, to two, and what it does not concern.
ROUTED = [
    {
        "id": "route",
        "route": {"choose": "${input.kind}", "branches": {"Bill": ["bill"], "it": ["it", "both"]}},
    },
    {"id": "bill"},
    {"id": "it"},
    {"id": "both"},
    {"id": "other"},
    {"id": "end", "input": {"route": "${steps.route}", "it": "${steps.it}"}},
]


def graph(*steps: dict[str, Any], output: Any = None, **more: Any) -> Graph:
    """Steps that say nothing of their kind are of the agent `a`."""
    return parse_graph({"name": "g", "steps": [_full(step) for step in steps], "output": output, **more})


def sub(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A step with a sub-graph, whose input is the run's as `q`."""
    inner = {"name": "inner", "steps": [_full(step) for step in steps]}
    return {"id": "sub", "graph": inner, "input": {"q": "${input}"}, **more}


def fan_out(**more: Any) -> Graph:
    """One step that runs for each of the run's input."""
    return graph({"id": "work", "for_each": "${input}", "input": {"q": "${item}", "at": "${index}"}, **more})


def _full(step: dict[str, Any]) -> dict[str, Any]:
    return step if step.keys() & set(KINDS) else {"agent": "a", **step}


class Play:
    """`starts`, `waits`, `settles` by key, `skipped` and `abandoned` in order; `under_way` in order too."""

    def __init__(self, graph: Graph, run_input: Any = None, **more: Any) -> None:
        self.progress = Progress(graph, run_input, **more)
        self.starts: dict[str, Start] = {}
        self.waits: dict[str, Wait] = {}
        self.settles: dict[str, Settle] = {}
        self.skipped: list[str] = []
        self.abandoned: list[str] = []
        self.under_way: list[str] = []
        self.finished: Finished | None = None
        self._go()

    def note(self, key: str, state: Any, output: Any = None, error: Any = None) -> "Play":
        if state not in ("started", "waiting") and key in self.under_way:
            self.under_way.remove(key)
        step = StepKey(key)
        self.progress.note(Execution(step, StepId(step_of(step)), state, 1, output, error))
        self._go()
        return self

    def done(self, key: str, output: Any = None) -> "Play":
        assert key in self.under_way, f"{key} is not under way, but {self.under_way}"
        return self.note(key, "done", output)

    def failed(self, key: str, error: Any = ERROR) -> "Play":
        assert key in self.under_way, f"{key} is not under way, but {self.under_way}"
        return self.note(key, "failed", error=error)

    def input(self, key: str) -> dict[str, Any]:
        return self.starts[key].input

    @property
    def output(self) -> Any:
        assert self.finished is not None, f"it has not ended; under way: {self.under_way}"
        assert self.finished.error is None, self.finished.error
        return self.finished.output

    @property
    def error(self) -> Any:
        assert self.finished is not None, f"it has not ended; under way: {self.under_way}"
        assert self.finished.error is not None, "it has ended well"
        return self.finished.error

    def _go(self) -> None:
        """Note what the scheduler announces until it has nothing more to say."""
        while True:
            decision = self.progress.decide()
            self.finished = decision.finished
            for key in decision.abandoned:
                self.abandoned.append(key)
                self.under_way.remove(key)
                self._tell(key, "failed", error=ERROR)
            for start in decision.starts:
                self.starts[start.key] = start
                self.under_way.append(start.key)
                self._tell(start.key, "started")
            for wait in decision.waits:
                self.waits[wait.key] = wait
                self.under_way.append(wait.key)
                self._tell(wait.key, "waiting")
            for skip in decision.skips:
                self.skipped.append(skip.key)
                self._tell(skip.key, "skipped")
            for settle in decision.settles:
                self.settles[settle.key] = settle
                state = "done" if settle.error is None else "failed"
                self._tell(settle.key, state, settle.output, settle.error)
            if decision.finished or not any(to_json(decision).values()):
                return

    def _tell(self, key: StepKey, state: Any, output: Any = None, error: Any = None) -> None:
        self.progress.note(Execution(key, StepId(step_of(key)), state, 1, output, error))
