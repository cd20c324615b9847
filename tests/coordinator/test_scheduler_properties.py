"""Random graphs run by a random executor: what the scheduler says is checked against a slow reading of the same."""

import random
import re
import zlib
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.keys import covers, step_of
from coordinator.scheduler import Decision, Execution, Finished, Progress, Settle, Skip, Start, Wait
from manta.errors import RunCancelled
from manta.graph import Graph
from manta.ids import StepId, StepKey, step_key
from tests.coordinator.naive_plan import OPEN, Naive
from tests.coordinator.random_graphs import INPUT, output_of, random_graph

STEPS_AT_MOST = 5000
SEED = st.integers(0, 2**32)
STEPS = st.sampled_from([1, 3, 6])
DEPTH = st.sampled_from([0, 1, 2])


@dataclass
class Executor:
    """Does what a coordinator does, in any order. `rows`: what its journal has; `failing`: of 100 executions."""

    graph: Graph
    dice: random.Random
    failing: int = 0
    restarts: bool = False
    rows: dict[StepKey, tuple[str, Any]] = field(default_factory=dict)
    inputs: dict[StepKey, Any] = field(default_factory=dict)
    started: list[StepKey] = field(default_factory=list)
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        self.progress = Progress(self.graph, INPUT)

    def run(self) -> Finished:
        for _ in range(STEPS_AT_MOST):
            decision = self.progress.decide()
            self.check(decision)
            self.check_bounds(decision)
            if decision.finished is not None:
                return decision.finished
            if self.restarts and self.dice.random() < 0.2:
                self.restart()
            else:
                self.act(decision)
        raise AssertionError("the run does not end")

    def check(self, decision: Decision) -> None:
        assert self.progress.decide() == decision
        # What was stopped as nobody waited for it any more is no cause of anything.
        naive = Naive(self.graph, INPUT, {key: row for key, row in self.rows.items() if not stopped(row)})
        assert (decision.finished is None) == (naive.finished is None)
        if decision.finished is not None and naive.finished is not None:
            if naive.finished.state == "failed":
                assert decision.finished.error in naive.errors
            else:
                assert decision.finished.output == naive.finished.value
            return
        assert {start.key: start.input for start in decision.starts} == naive.starts
        assert {skip.key for skip in decision.skips} == naive.skips
        assert {wait.key for wait in decision.waits} == naive.waits
        settled = {s.key: s.output if s.error is None else s.error["code"] for s in decision.settles}
        assert settled == naive.settles
        assert set(decision.abandoned) == naive.abandoned

    def check_bounds(self, decision: Decision) -> None:
        """No step begins before those it needs are settled, and no fan-out has more items at work than it may."""
        announced = [a.key for a in (*decision.starts, *decision.skips, *decision.waits, *decision.settles)]
        open_ = [key for key, (state, _) in self.rows.items() if state in OPEN]
        busy = [key for key in (*announced, *open_) if key not in decision.abandoned]
        for start in decision.starts:
            prefix, graph = self.around(start.key)
            for needed in graph.dependencies[start.step.id]:
                assert not any(covers(step_key(needed, parent=prefix), key) for key in busy)
        items: dict[str, set[str]] = {}
        for key in busy:
            for found in re.finditer(r"\[(\d+)\]", key):
                items.setdefault(key[: found.start()], set()).add(found[1])
        for fan_out, at_work in items.items():
            _, graph = self.around(StepKey(fan_out))
            assert len(at_work) <= graph.step(step_of(StepKey(fan_out))).max_parallel

    def around(self, key: StepKey) -> tuple[str, Graph]:
        """The graph that an execution's step is in, and that graph's own key."""
        graph, (*outer, _) = self.graph, key.split("/")
        for part in outer:
            inner = graph.step(step_of(StepKey(part))).graph
            assert isinstance(inner, Graph)
            graph = inner
        return "/".join(outer), graph

    def act(self, decision: Decision) -> None:
        """Note some of what is announced, and the ends of some that are under way; one failure at a time."""
        under_way = [key for key, (state, _) in self.rows.items() if state in OPEN]
        choices: list[Any] = [*decision.starts, *decision.skips, *decision.waits, *decision.settles]
        choices += [*decision.abandoned, *(key for key in under_way if key not in decision.abandoned)]
        assert choices, "nothing is under way and nothing can begin"
        may_fail = True
        for chosen in self.dice.sample(choices, self.dice.randint(1, min(4, len(choices)))):
            if may_fail or not self.fails(chosen):
                self.take(chosen, abandoned=chosen in decision.abandoned)
                may_fail = may_fail and not self.fails(chosen)

    def take(self, chosen: Any, *, abandoned: bool) -> None:
        match chosen:
            case Start():
                assert chosen.key not in self.rows
                self.inputs[chosen.key] = chosen.input
                self.started.append(chosen.key)
                self.note(chosen.key, "started")
            case Skip():
                self.note(chosen.key, "skipped")
            case Wait():
                self.note(chosen.key, "waiting")
            case Settle():
                self.note(
                    chosen.key, "done" if chosen.error is None else "failed", chosen.output or chosen.error
                )
            case _ if abandoned:
                self.note(chosen, "failed", RunCancelled("stopped").to_json())
            case _:
                self.end(chosen)

    def fails(self, chosen: Any) -> bool:
        """Whether a step fails by it: also by a fallback that does not want to stand in."""
        if isinstance(chosen, str):
            return zlib.crc32(f"{chosen} {self.failing}".encode()) % 100 < self.failing
        return getattr(chosen, "error", None) is not None or isinstance(chosen, Skip)

    def end(self, key: StepKey) -> None:
        if self.fails(key):
            self.note(key, "failed", {"code": "x", "message": key, "fix": ""})
        elif self.rows[key][0] == "waiting":
            self.note(key, "done", {"decision": "approved", "value": None, "comment": "", "by": "me"})
        else:
            self.note(key, "done", output_of(key, self.inputs[key]))

    def note(self, key: StepKey, state: Any, value: Any = None) -> None:
        self.rows[key] = (state, value)
        self.progress.note(execution(key, state, value))

    def restart(self) -> None:
        """The coordinator dies: what was started is not told to the next, all else is, in any order."""
        self.progress = Progress(self.graph, INPUT)
        self.rows = {key: row for key, row in self.rows.items() if row[0] != "started"}
        for key in self.dice.sample(sorted(self.rows), len(self.rows)):
            self.progress.note(execution(key, *self.rows[key]))


def execution(key: StepKey, state: Any, value: Any) -> Execution:
    if state == "failed":
        return Execution(key, StepId(step_of(key)), state, error=value)
    return Execution(key, StepId(step_of(key)), state, output=value)


def stopped(row: tuple[str, Any]) -> bool:
    return row[0] == "failed" and row[1]["code"] == RunCancelled.code


@given(SEED, STEPS, DEPTH, st.sampled_from([0, 10, 40]), st.booleans())
@settings(max_examples=300, deadline=None)
def test_every_decision_is_what_the_graph_means(
    seed: int, steps: int, depth: int, failing: int, restarts: bool
):
    dice = random.Random(f"{seed} {steps} {depth}")
    graph = random_graph(dice, steps, depth, may_fail=True)
    run = Executor(graph, dice, failing, restarts)
    run.run()
    assert restarts or len(run.started) == len(set(run.started))


@given(SEED, STEPS, DEPTH)
@settings(max_examples=150, deadline=None)
def test_without_failures_the_order_of_completion_decides_nothing(seed: int, steps: int, depth: int):
    dice = random.Random(f"{seed} {steps} {depth}")
    graph = random_graph(dice, steps, depth, may_fail=False)
    first, second = Executor(graph, dice), Executor(graph, dice, restarts=True)
    end = first.run()
    assert end.error is None
    assert second.run() == end
    assert first.rows == second.rows
