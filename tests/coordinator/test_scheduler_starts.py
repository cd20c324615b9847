"""What goes along with a start, what stands in for an input, and what a fork does not copy."""

import pytest

from coordinator.scheduler import Execution, Progress
from manta.ids import StepId, StepKey
from manta.messages import Budget, Limit
from tests.coordinator.play import RESCUED, ROUTED, Play, fan_out, graph, sub


def test_limits_of_the_steps_around_come_outermost_first_with_what_they_cover():
    inner = {
        "name": "n",
        "budget": {"seconds": 9},
        "steps": [
            {"id": "b", "agent": "a", "budget": {"tool_calls": 1}, "repeat": {"until": "${output}", "max": 2}}
        ],
    }
    outer = {"id": "sub", "graph": inner, "for_each": "${input}", "budget": {"tokens": 5}}
    play = Play(graph(outer, {"id": "free"}), [0])
    assert play.starts["free"].limits == ()
    assert play.starts["sub[0]/b#1"].limits == (
        Limit(StepKey("sub"), Budget(tokens=5)),
        Limit(StepKey("sub[0]"), Budget(seconds=9)),
        Limit(StepKey("sub[0]/b"), Budget(tool_calls=1)),
    )


def test_priorities_add_up():
    inner = sub({"id": "a", "priority": 2}, priority=-5)
    play = Play(graph(inner, {"id": "b", "priority": 1}))
    assert play.starts["sub/a"].priority == -3
    assert play.starts["b"].priority == 1


def test_steps_left_is_the_longest_chain_behind_in_all_graphs_around():
    inner = sub({"id": "x"}, {"id": "y", "needs": ["x"]})
    steps = [inner, {"id": "b", "needs": ["sub"]}, {"id": "c", "needs": ["b"]}, {"id": "d"}]
    play = Play(graph(*steps)).done("sub/x").done("sub/y").done("b")
    left = {key: start.steps_left for key, start in play.starts.items()}
    assert left == {"sub/x": 3, "sub/y": 2, "b": 1, "c": 0, "d": 0}


def test_a_fallback_does_not_lengthen_the_chain():
    play = Play(graph(*RESCUED)).failed("main")
    assert (play.starts["main"].steps_left, play.starts["rescue"].steps_left) == (1, 1)


def test_inputs_by_key_stand_in_for_those_of_the_graph():
    key = StepKey("work[1]")
    play = Play(fan_out(), ["x", "y"], overrides={key: {"q": "other"}})
    assert play.input("work[0]") == {"q": "x", "at": 0}
    assert play.input("work[1]") == {"q": "other"}


def test_the_input_of_a_sub_graph_can_be_another():
    play = Play(
        graph(sub({"id": "a", "input": {"x": "${input.q}"}})), 1, overrides={StepKey("sub"): {"q": 2}}
    )
    assert play.input("sub/a") == {"x": 2}


def test_prompts_approvals_and_routes_take_their_fields():
    steps = [
        {"id": "p", "prompt": {"text": "old", "system": "s"}},
        {"id": "a", "approval": {"question": "old?"}},
        {"id": "r", "route": {"choose": "${input}", "branches": {"x": [], "y": []}}},
    ]
    other = {"p": {"text": "new", "more": 1}, "a": {"question": "new?"}, "r": {"choose": "y"}}
    play = Play(graph(*steps), "x", overrides={StepKey(key): value for key, value in other.items()})
    prompt = play.starts["p"].options["prompt"]
    assert (prompt["text"], prompt["system"], play.input("p")) == ("new", "s", {"more": 1})
    assert play.waits["a"].waiting["question"] == "new?"
    assert play.settles["r"].output == "y"


@pytest.mark.parametrize(
    ("key", "behind"),
    [
        ("a", {"a", "each[0]/x#1", "each[0]/x#2", "each[1]/x#1", "each[0]/y", "end"}),
        ("each", {"each[0]/x#1", "each[0]/x#2", "each[1]/x#1", "each[0]/y", "end"}),
        ("each[0]", {"each[0]/x#1", "each[0]/x#2", "each[0]/y", "end"}),
        ("each[0]/x", {"each[0]/x#1", "each[0]/x#2", "each[0]/y", "end"}),
        ("each[0]/x#2", {"each[0]/x#2", "each[0]/y", "end"}),
        ("each[1]/x#1", {"each[1]/x#1", "end"}),
        ("each[0]/y", {"each[0]/y", "end"}),
        ("free", {"free"}),
        ("end", {"end"}),
    ],
)
def test_downstream_is_what_a_fork_does_not_copy(key: str, behind: set[str]):
    inner = {
        "name": "n",
        "steps": [
            {"id": "x", "agent": "a", "repeat": {"until": "${output}", "max": 3}},
            {"id": "y", "agent": "a", "needs": ["x"]},
        ],
    }
    steps = [
        {"id": "a"},
        {"id": "each", "graph": inner, "for_each": "${steps.a}"},
        {"id": "free"},
        {"id": "end", "needs": ["each"]},
    ]
    progress = Progress(graph(*steps), None)
    for noted in ("a", "each[0]/x#1", "each[0]/x#2", "each[0]/y", "each[1]/x#1", "free", "end"):
        progress.note(Execution(StepKey(noted), StepId("x"), "done"))
    assert progress.downstream(StepKey(key)) == behind


def test_branches_and_fallbacks_are_behind_what_lets_them_run():
    progress = Progress(graph(*ROUTED), {"kind": "it"})
    for noted in ("route", "bill", "it", "other", "end"):
        progress.note(Execution(StepKey(noted), StepId(noted), "done"))
    assert progress.downstream(StepKey("route")) == {"route", "bill", "it", "end"}
    progress = Progress(graph(*RESCUED), None)
    for noted in ("main", "rescue", "after"):
        progress.note(Execution(StepKey(noted), StepId(noted), "done"))
    assert progress.downstream(StepKey("rescue")) == {"rescue", "after"}
