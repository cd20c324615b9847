"""A run costs as much as it has executions: counted in calls, Python's and C's, and in references looked up."""

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest

from coordinator.scheduler import Execution, Progress
from manta.expressions import Expression
from manta.graph import Graph, parse_graph
from manta.ids import StepId, StepKey
from tests.coordinator.play import fan_out, graph

CALLS_PER_EXECUTION = 150


def run(graph: Graph, run_input: Any) -> tuple[int, int]:
    """Run to the end, each execution ending by itself; returns executions and calls."""
    with counted_calls() as calls:
        progress = Progress(graph, run_input)
        under_way: list[StepKey] = []
        executions = 0
        while (decision := progress.decide()).finished is None:
            for start in decision.starts:
                under_way.append(start.key)
                progress.note(Execution(start.key, StepId(start.step.id), "started"))
            executions += 1
            key = under_way.pop()
            progress.note(Execution(key, StepId("any"), "done", output={"v": key}))
    assert decision.finished.error is None
    return executions, calls()


@contextmanager
def counted_calls():
    counts = [0]

    def count(frame: Any, event: str, argument: Any) -> None:
        counts[0] += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield lambda: counts[0]
    finally:
        sys.setprofile(before)


def chain(steps: int) -> Graph:
    first = {"id": "s0", "agent": "a"}
    rest = [{"id": f"s{n}", "agent": "a", "input": {"x": f"${{steps.s{n - 1}.v}}"}} for n in range(1, steps)]
    return parse_graph({"name": "g", "steps": [first, *rest]})


def loop(rounds: int) -> Graph:
    until = f"${{iteration == `{rounds}`}}"
    return graph({"id": "a", "input": {"p": "${previous.v}"}, "repeat": {"until": until, "max": rounds}})


def nested(items: int) -> Graph:
    """Items that are graphs of a chain and a loop."""
    inner = {
        "name": "n",
        "steps": [
            {"id": "a", "agent": "a", "input": {"i": "${input.i}"}},
            {
                "id": "b",
                "agent": "a",
                "input": {"a": "${steps.a}"},
                "repeat": {"until": "${iteration == `2`}", "max": 2},
            },
        ],
    }
    return graph({"id": "each", "graph": inner, "for_each": "${input}", "input": {"i": "${item}"}})


@pytest.mark.parametrize(
    ("make", "small", "large", "executions"),
    [
        pytest.param(lambda n: (fan_out(), [0] * n), 500, 10_000, 10_000, id="fan-out"),
        pytest.param(
            lambda n: (fan_out(max_parallel=10_000), [0] * n), 500, 10_000, 10_000, id="all at once"
        ),
        pytest.param(lambda n: (loop(n), None), 50, 1000, 1000, id="loop"),
        pytest.param(lambda n: (chain(n), None), 50, 1000, 1000, id="chain"),
        pytest.param(lambda n: (nested(n), [0] * n), 50, 1000, 3000, id="nested"),
    ],
)
def test_cost_grows_with_the_number_of_executions(
    make: Callable[[int], tuple[Graph, Any]], small: int, large: int, executions: int
):
    few, few_calls = run(*make(small))
    many, many_calls = run(*make(large))
    assert many == executions
    assert many_calls / many < CALLS_PER_EXECUTION
    assert many_calls / many < 1.1 * few_calls / few


def test_taking_up_a_large_run_costs_no_more_than_running_it():
    def take_up(items: int) -> int:
        progress = Progress(fan_out(), list(range(items)))
        with counted_calls() as calls:
            for index in reversed(range(items)):
                progress.note(Execution(StepKey(f"work[{index}]"), StepId("work"), "done", output=index))
            decision = progress.decide()
        assert decision.finished is not None
        assert decision.finished.output == list(range(items))
        return calls()

    assert take_up(10_000) / 10_000 < min(CALLS_PER_EXECUTION, 1.1 * take_up(500) / 500)


def test_what_items_have_in_common_is_looked_up_once(monkeypatch: pytest.MonkeyPatch):
    looked_up: Counter[str] = Counter()
    search = Expression.search

    def counting(self: Expression, scope: Any) -> Any:
        looked_up[self.text] += 1
        return search(self, scope)

    monkeypatch.setattr(Expression, "search", counting)
    given = {"all": "${input.corpus}", "one": "${item}", "both": "${input.corpus} ${index}"}
    items = 1000
    executions, _ = run(
        graph({"id": "work", "for_each": "${input.list}", "input": given}),
        {"list": [0] * items, "corpus": "c"},
    )
    assert executions == items
    # Once for all that is the same, and once for each text that differs.
    assert looked_up == {
        "input.list": 1,
        "input.corpus": 1 + items,
        "item": items,
        "index": items,
        "steps.work": 1,
    }
