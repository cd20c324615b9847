"""The pure scheduler: what it starts, when it waits, when the run is over."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from coordinator.scheduler import Execution, decide, steps_left
from manta.graph import Graph, parse_graph
from manta.ids import StepId, StepKey, step_key


def graph(*steps: dict[str, Any], output: Any = None) -> Graph:
    return parse_graph({"name": "g", "steps": [{"agent": "a", **step} for step in steps], "output": output})


def done(
    step: str, output: Any = None, index: int | None = None, state: Any = "done", **more: Any
) -> dict[StepKey, Execution]:
    key = step_key(StepId(step), index)
    return {key: Execution(key, StepId(step), index, state, output=output, **more)}


def started(decision: Any) -> list[str]:
    return [start.key for start in decision.starts]


def test_steps_without_needs_start_together_and_in_order():
    assert started(decide(graph({"id": "a"}, {"id": "b"}), {}, {})) == ["a", "b"]


def test_a_step_waits_only_for_what_it_refers_to():
    g = graph({"id": "slow"}, {"id": "fast"}, {"id": "next", "input": {"x": "${steps.fast.value}"}})
    decision = decide(g, {}, done("slow", state="started") | done("fast", {"value": 7}))
    assert started(decision) == ["next"]
    assert decision.starts[0].input == {"x": 7}


def test_input_and_mixed_text_references():
    g = graph({"id": "a", "input": {"whole": "${input.n}", "text": "n is ${input.n}", "none": "${input.no}"}})
    assert decide(g, {"n": 3}, {}).starts[0].input == {"whole": 3, "text": "n is 3", "none": None}


def test_fan_out_over_a_list_known_only_at_run_time_respects_max_parallel():
    g = graph(
        {"id": "plan"},
        {"id": "work", "for_each": "${steps.plan}", "max_parallel": 2, "input": {"q": "${item}"}},
    )
    decision = decide(g, {}, done("plan", ["x", "y", "z"]))
    assert [(s.key, s.input) for s in decision.starts] == [("work[0]", {"q": "x"}), ("work[1]", {"q": "y"})]
    again = decide(
        g, {}, done("plan", ["x", "y", "z"]) | done("work", 1, 0) | done("work", None, 1, "started")
    )
    assert started(again) == ["work[2]"]


def test_fan_out_joins_in_order_and_an_empty_one_is_done():
    g = graph({"id": "plan"}, {"id": "work", "for_each": "${steps.plan}"}, output="${steps.work}")
    both = done("plan", ["x", "y"]) | done("work", "Y", 1) | done("work", "X", 0)
    assert decide(g, {}, both).finished.output == ["X", "Y"]
    assert decide(g, {}, done("plan", [])).finished.output == []


def test_quorum_tolerates_failures_up_to_its_bound():
    g = graph({"id": "work", "for_each": "${input}", "quorum": 2}, output="${steps.work}")
    error = {"code": "x", "message": "m", "fix": ""}
    one_failed = done("work", 1, 0) | done("work", None, 1, "failed", error=error) | done("work", 3, 2)
    assert decide(g, ["a", "b", "c"], one_failed).finished.output == [1, None, 3]
    two_failed = one_failed | done("work", None, 0, "failed", error=error)
    assert decide(g, ["a", "b", "c"], two_failed).finished.error == error


def test_fan_out_over_something_else_is_an_error_that_names_the_step():
    error = decide(graph({"id": "work", "for_each": "${input.items}"}), {"items": "text"}, {}).finished.error
    assert error["code"] == "invalid_fan_out"
    assert "'work'" in error["message"]


def test_when_false_skips_and_those_behind_go_on_with_null():
    g = graph({"id": "maybe", "when": "${input.data}"}, {"id": "last", "input": {"m": "${steps.maybe}"}})
    decision = decide(g, {"data": []}, {})
    assert [skip.key for skip in decision.skips] == ["maybe"]
    after = decide(g, {"data": []}, done("maybe", None, state="skipped"))
    assert after.starts[0].input == {"m": None}


def test_a_failed_step_ends_the_run_unless_it_may_be_skipped():
    error = {"code": "x", "message": "m", "fix": ""}
    failed = done("a", None, state="failed", error=error)
    assert decide(graph({"id": "a"}), {}, failed).finished.error == error
    assert decide(graph({"id": "a", "on_error": "skip"}), {}, failed).finished.output is None


def test_output_is_the_last_step_or_what_the_graph_says():
    executions = done("a", 1) | done("b", 2)
    assert decide(graph({"id": "a"}, {"id": "b"}), {}, executions).finished.output == 2
    structured = graph(
        {"id": "a"}, {"id": "b"}, output={"both": ["${steps.a}", "${steps.b}"], "in": "${input}"}
    )
    assert decide(structured, "i", executions).finished.output == {"both": [1, 2], "in": "i"}


def test_steps_left_is_the_longest_chain_behind():
    g = graph(
        {"id": "a"}, {"id": "b", "needs": ["a"]}, {"id": "c", "needs": ["b"]}, {"id": "d", "needs": ["a"]}
    )
    assert steps_left(g) == {"a": 2, "b": 1, "c": 0, "d": 0}


@st.composite
def dags(draw: st.DrawFn) -> Graph:
    size = draw(st.integers(1, 12))
    steps = []
    for number in range(size):
        needs = draw(st.lists(st.integers(0, number - 1), max_size=3, unique=True)) if number else []
        steps.append({"id": f"s{number}", "needs": [f"s{n}" for n in needs]})
    return graph(*draw(st.permutations(steps)))


@given(dags(), st.randoms())
def test_every_graph_runs_every_step_once_and_ends(g: Graph, random: Any):
    executions: dict[StepKey, Execution] = {}
    runs: list[str] = []
    while (decision := decide(g, {}, executions)).finished is None:
        for start in decision.starts:
            assert start.step.depends_on <= {key for key, e in executions.items() if e.state == "done"}
            runs.append(start.key)
            executions |= done(start.key, None, state="started")
        running = [key for key, execution in executions.items() if execution.state == "started"]
        executions |= done(random.choice(running), None)
    assert sorted(runs) == sorted(step.id for step in g.steps)
