"""A run whose coordinator died: the next is told what is in the journal, in any order, and goes on."""

from typing import Any

from coordinator.keys import step_of
from coordinator.scheduler import Execution, Progress
from manta.errors import RunCancelled
from manta.graph import Graph
from manta.ids import StepId, StepKey
from tests.coordinator.play import ERROR, fan_out, graph, sub


def taken_up(graph: Graph, run_input: Any, **rows: tuple[Any, Any]) -> Progress:
    """`rows`: state and output or error."""
    progress = Progress(graph, run_input)
    return noted(progress, rows)


def noted(progress: Progress, rows: dict[str, tuple[Any, Any]]) -> Progress:
    for name, (state, value) in rows.items():
        key = StepKey(name)
        output, error = (None, value) if state == "failed" else (value, None)
        progress.note(Execution(key, StepId(step_of(key)), state, 1, output, error))
    return progress


def starts(progress: Progress) -> list[str]:
    return [start.key for start in progress.decide().starts]


def test_what_is_done_is_not_done_again_whatever_the_order():
    g = graph(
        {"id": "a"}, {"id": "b", "input": {"a": "${steps.a}"}}, {"id": "c", "input": {"b": "${steps.b}"}}
    )
    progress = taken_up(g, None, b=("done", 2), a=("done", 1))
    assert starts(progress) == ["c"]
    assert progress.decide().starts[0].input == {"b": 2}


def test_what_had_begun_begins_again():
    assert starts(taken_up(graph({"id": "a"}, {"id": "b"}), None, b=("done", 2))) == ["a"]


def test_what_waits_goes_on_waiting():
    g = graph({"id": "a", "approval": {"question": "?"}}, {"id": "b", "input": {"by": "${steps.a.by}"}})
    progress = taken_up(g, None, a=("waiting", None))
    assert progress.decide().waits == ()
    assert starts(noted(progress, {"a": ("done", {"by": "me"})})) == ["b"]


def test_what_waited_and_is_to_be_made_again_is_announced():
    progress = taken_up(graph({"id": "a", "input": {"x": "${input}"}}), 1, a=("waiting", None))
    progress.forget(StepKey("a"))
    assert progress.decide().starts[0].input == {"x": 1}
    later = taken_up(graph({"id": "a"}), None, a=("waiting", None))
    assert later.decide().starts == ()
    later.forget(StepKey("a"))
    assert starts(later) == ["a"]


def test_conditions_are_not_looked_at_again():
    g = graph({"id": "a", "when": "${length(input)}"}, {"id": "b"})
    assert starts(taken_up(g, 1, a=("skipped", None))) == ["b"]
    assert starts(taken_up(g, 1, a=("done", None))) == ["b"]


def test_items_that_have_begun_keep_their_places():
    progress = Progress(
        graph(sub({"id": "a"}, {"id": "b", "needs": ["a"]}, for_each="${input}", max_parallel=2)), [0] * 4
    )
    noted(progress, {"sub[3]/a": ("done", 1), "sub[0]/a": ("done", 1), "sub[0]/b": ("done", 1)})
    assert starts(progress) == ["sub[3]/b", "sub[1]/a"]


def test_a_fan_out_does_not_start_what_is_there():
    progress = noted(
        Progress(fan_out(max_parallel=2), [0] * 4), {"work[2]": ("done", 1), "work[0]": ("done", 1)}
    )
    assert starts(progress) == ["work[1]", "work[3]"]


def test_a_loop_goes_on_with_its_next_round():
    g = graph({"id": "a", "input": {"p": "${previous}"}, "repeat": {"until": "${output == `9`}", "max": 5}})
    progress = noted(Progress(g, None), {"a#2": ("done", 2), "a#1": ("done", 1)})
    assert starts(progress) == ["a#3"]
    assert progress.decide().starts[0].input == {"p": 2}


def test_what_was_left_behind_under_a_failed_step_is_told_again():
    g = graph(
        sub({"id": "a"}, {"id": "b", "approval": {"question": "?"}}, {"id": "c"}, on_error="skip"),
        {"id": "d"},
    )
    progress = noted(Progress(g, None), {"sub/b": ("waiting", None), "sub/a": ("failed", ERROR)})
    decision = progress.decide()
    assert decision.abandoned == ("sub/b",)
    assert starts(progress) == ["d"]


def test_what_was_stopped_is_no_cause_of_what_failed():
    """Its row may come first; the fallback still sees why the step failed."""
    g = graph(
        sub({"id": "a"}, {"id": "b"}, on_error={"fallback": "why"}),
        {"id": "why", "input": {"c": "${error.code}"}},
    )
    stopped = RunCancelled("stopped").to_json()
    progress = noted(Progress(g, None), {"sub/a": ("failed", stopped), "sub/b": ("failed", ERROR)})
    assert progress.decide().starts[0].input == {"c": "x"}


def test_a_finished_run_is_finished():
    g = graph({"id": "a"}, {"id": "b", "needs": ["a"]})
    end = taken_up(g, None, b=("done", 2), a=("done", 1)).decide().finished
    assert end is not None
    assert end.output == 2
