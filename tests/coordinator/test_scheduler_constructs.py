"""The pure scheduler, construct by construct: fan-outs, routes, loops, sub-graphs, approvals."""

import pytest

from coordinator.scheduler import Decision, Progress
from manta.errors import InvalidGraph
from manta.ids import StepKey
from tests.coordinator.play import ERROR, ROUTED, Play, fan_out, graph, sub


def test_fan_out_respects_max_parallel_and_joins_in_order():
    play = Play(fan_out(max_parallel=2), ["x", "y", "z"])
    assert play.under_way == ["work[0]", "work[1]"]
    assert play.done("work[1]", "Y").under_way == ["work[0]", "work[2]"]
    assert play.input("work[2]") == {"q": "z", "at": 2}
    assert play.starts["work[2]"].index == 2
    assert play.done("work[2]", "Z").done("work[0]", "X").output == ["X", "Y", "Z"]


def test_an_empty_fan_out_is_done_at_once():
    assert Play(fan_out(), []).output == []


def test_quorum_tolerates_failures_up_to_its_bound():
    play = Play(fan_out(quorum=2), ["a", "b", "c"]).done("work[0]", 1).failed("work[1]")
    assert play.done("work[2]", 3).output == [1, None, 3]
    play = Play(fan_out(quorum=2), ["a", "b", "c"]).failed("work[1]")
    assert play.failed("work[2]", {**ERROR, "code": "y"}).error == ERROR


def test_a_quorum_larger_than_the_list_is_all_of_it():
    assert Play(fan_out(quorum=5), ["a"]).done("work[0]", 1).output == [1]
    assert Play(fan_out(quorum=5), ["a"]).failed("work[0]").error == ERROR


def test_items_that_may_be_skipped_become_null_each():
    play = Play(fan_out(on_error="skip"), ["a", "b"]).failed("work[0]").done("work[1]", 2)
    assert play.output == [None, 2]


def test_with_a_quorum_skipping_is_of_the_whole_step():
    play = Play(fan_out(on_error="skip", quorum=2), ["a", "b", "c"]).failed("work[0]").failed("work[1]")
    assert play.abandoned == ["work[2]"]
    assert play.output is None


def test_an_items_input_that_does_not_fit_is_that_items_error():
    steps = {"id": "work", "for_each": "${input}", "quorum": 1, "input": {"n": "${abs(item)}"}}
    play = Play(graph(steps), ["a", -2])
    assert play.settles["work[0]"].error["code"] == "bad_reference"
    assert play.done("work[1]", "two").output == [None, "two"]


@pytest.mark.parametrize(
    ("items", "words"), [("text", "it is str"), (None, "it is null"), ([0] * 10_001, "10001")]
)
def test_fan_out_over_something_else_is_an_error_that_names_the_step(items: object, words: str):
    play = Play(fan_out(), items)
    assert play.error["code"] == "invalid_fan_out"
    assert "'work'" in play.error["message"]
    assert words in play.error["message"]
    assert Play(fan_out(on_error="skip"), items).output is None


def with_default(*default: str):
    route = {**ROUTED[0]["route"], "default": list(default)}
    return graph({"id": "route", "route": route}, *ROUTED[1:])


@pytest.mark.parametrize("value", ["bill", "BILL", " Bill\n"])
def test_a_route_lets_its_branch_run_and_skips_the_others(value: str):
    play = Play(graph(*ROUTED), {"kind": value})
    assert play.settles["route"].output == "Bill"
    assert play.under_way == ["other", "bill", "end"]
    assert play.skipped == ["it", "both"]
    assert play.input("end") == {"route": "Bill", "it": None}


def test_a_value_without_a_branch_takes_the_default_or_is_an_error():
    play = Play(with_default("bill"), {"kind": "?"})
    assert play.settles["route"].output == "default"
    assert play.skipped == ["it", "both"]
    error = Play(graph(*ROUTED), {"kind": "?"}).error
    assert error["code"] == "no_branch"
    assert "'?'; there are Bill, it" in error["message"]


def test_a_default_may_be_nothing():
    play = Play(with_default(), {"kind": None})
    assert play.skipped == ["bill", "it", "both"]


def test_values_that_are_no_text_are_compared_as_json():
    steps = [{"id": "r", "route": {"choose": "${input}", "branches": {"true": ["a"], "3": ["b"]}}}]
    assert Play(graph(*steps, {"id": "a"}, {"id": "b"}), True).under_way == ["a"]
    assert Play(graph(*steps, {"id": "a"}, {"id": "b"}), 3).under_way == ["b"]


def test_a_step_that_two_routes_name_runs_if_either_chooses_it():
    route = {"branches": {"yes": ["a"], "no": []}}
    steps = [
        {"id": "one", "route": {"choose": "${input.one}", **route}},
        {"id": "two", "route": {"choose": "${input.two}", **route}},
        {"id": "a"},
    ]
    assert Play(graph(*steps), {"one": "yes", "two": "no"}).under_way == ["a"]
    assert Play(graph(*steps), {"one": "no", "two": "no"}).skipped == ["a"]


def test_a_route_that_is_skipped_or_failed_chooses_nothing():
    steps = [
        {
            "id": "r",
            "when": "${input.on}",
            "on_error": "skip",
            "route": {"choose": "${input.x}", "branches": {"a": ["a"]}},
        },
        {"id": "a"},
    ]
    assert Play(graph(*steps), {"on": False, "x": "a"}).skipped == ["r", "a"]
    assert Play(graph(*steps), {"on": True, "x": "z"}).skipped == ["a"]


LOOP = {"id": "draft", "input": {"last": "${previous}", "n": "${iteration}"}}


def loop(until: str, most: int, **more: object):
    return graph({**LOOP, "repeat": {"until": until, "max": most, **more}})


def test_a_loop_runs_until_its_condition_holds():
    play = Play(loop("${output.good}", 5))
    assert play.input("draft#1") == {"last": None, "n": 1}
    play.done("draft#1", {"good": False})
    assert play.input("draft#2") == {"last": {"good": False}, "n": 2}
    assert play.done("draft#2", {"good": True}).output == {"good": True}


def test_the_condition_sees_the_graph_the_round_and_the_round_before():
    until = "${output == previous && iteration >= input.least}"
    play = Play(loop(until, 5), {"least": 3}).done("draft#1", "x").done("draft#2", "x")
    assert play.done("draft#3", "x").output == "x"


def test_at_its_limit_a_loop_accepts_or_fails():
    assert Play(loop("${output.good}", 2)).done("draft#1").done("draft#2", 2).output == 2
    play = Play(loop("${output.good}", 2, on_limit="fail")).done("draft#1").done("draft#2")
    assert play.settles["draft"].error["code"] == play.error["code"] == "loop_limit"


def test_a_round_that_fails_fails_the_loop():
    assert Play(loop("${output}", 3)).failed("draft#1").error == ERROR


def test_a_condition_that_does_not_fit_is_the_loops_error():
    play = Play(loop("${length(output)}", 3)).done("draft#1", 5)
    assert play.settles["draft"].error["code"] == "bad_reference"


def test_every_item_loops_by_itself():
    step = {
        **LOOP,
        "for_each": "${input}",
        "input": {"i": "${item}"},
        "repeat": {"until": "${output}", "max": 2},
    }
    play = Play(graph(step), ["x", "y"]).done("draft[0]#1", 1).done("draft[1]#1", 0)
    assert play.under_way == ["draft[1]#2"]
    assert play.input("draft[1]#2") == {"i": "y"}
    assert play.done("draft[1]#2", 2).output == [1, 2]


def test_a_sub_graph_has_its_own_input_and_steps():
    inner = sub({"id": "a", "input": {"x": "${input.q}"}}, {"id": "b", "input": {"a": "${steps.a}"}})
    play = Play(graph(inner, {"id": "a", "input": {"s": "${steps.sub}"}}), "why")
    assert play.input("sub/a") == {"x": "why"}
    assert play.done("sub/a", 1).input("sub/b") == {"a": 1}
    assert play.done("sub/b", 2).input("a") == {"s": 2}


def test_a_failure_in_a_sub_graph_is_that_of_its_step():
    play = Play(
        graph(sub({"id": "a"}, {"id": "b"}, on_error="skip"), {"id": "c", "input": {"s": "${steps.sub}"}})
    )
    play.failed("sub/a")
    assert play.abandoned == ["sub/b"]
    assert play.input("c") == {"s": None}
    assert Play(graph(sub({"id": "a"}))).failed("sub/a").error == ERROR


def test_what_a_sub_graph_cannot_begin_or_end_with_is_its_steps_error():
    bad = sub({"id": "a"}, input={"q": "${abs('x')}"}, on_error="skip")
    assert Play(graph(bad)).settles["sub"].error["code"] == "bad_reference"
    inner = {"name": "n", "steps": [{"id": "a", "agent": "a"}], "output": "${abs(steps.a)}"}
    play = Play(graph({"id": "sub", "graph": inner, "on_error": "skip"})).done("sub/a", "x")
    assert play.settles["sub"].error["code"] == "bad_reference"
    assert play.output is None


def test_the_input_of_a_sub_graph_has_to_fit_its_schema():
    inner = sub({"id": "a"}, input={"q": "${item}"}, for_each="${input}", quorum=1)
    inner["graph"]["input_schema"] = {"properties": {"q": {"type": "string"}}}
    play = Play(graph(inner), ["text", 5])
    assert play.settles["sub[1]"].error["code"] == "invalid_input"
    assert "q: 5 is not of type 'string'" in play.settles["sub[1]"].error["message"]
    assert play.done("sub[0]/a", 1).output == [1, None]


def test_a_graph_whose_sub_graphs_are_only_named_is_refused():
    with pytest.raises(InvalidGraph, match="'other' is only named"):
        Progress(graph({"id": "a", "graph": "other"}), None)


def test_a_fan_out_over_a_sub_graph_with_a_loop_and_an_approval():
    inner = sub(
        {
            "id": "draft",
            "input": {"q": "${input.q}", "n": "${iteration}"},
            "repeat": {"until": "${output.ok}", "max": 3},
        },
        {"id": "sign", "approval": {"question": "Send ${steps.draft.text}?", "show": "${steps.draft}"}},
        for_each="${input}",
        input={"q": "${item}"},
        quorum=1,
    )
    play = Play(graph(inner, output="${steps.sub[].comment}"), ["x", "y"])
    assert play.under_way == ["sub[0]/draft#1", "sub[1]/draft#1"]
    play.done("sub[0]/draft#1", {"ok": False}).done("sub[0]/draft#2", {"ok": True, "text": "it"})
    assert play.input("sub[0]/draft#2") == {"q": "x", "n": 2}
    waiting = play.waits["sub[0]/sign"].waiting
    assert waiting == {
        "reason": "approval",
        "question": "Send it?",
        "show": {"ok": True, "text": "it"},
        "editable": True,
        "timeout_s": None,
    }
    play.failed("sub[1]/draft#1")
    play.done("sub[0]/sign", {"decision": "approved", "value": None, "comment": "fine", "by": "me"})
    assert play.output == ["fine"]


def test_a_rejected_approval_fails_its_step():
    steps = [{"id": "sign", "approval": {"question": "?"}, "on_error": {"fallback": "no"}}, {"id": "no"}]
    play = Play(graph(*steps)).failed("sign", {**ERROR, "code": "rejected"})
    assert play.under_way == ["no"]


def test_an_execution_that_is_to_be_made_again_is_announced_again():
    play = Play(graph({"id": "a", "input": {"x": "${input}"}}), 1)
    play.note("a", "waiting")
    play.progress.forget(StepKey("a"))
    assert [start.input for start in play.progress.decide().starts] == [{"x": 1}]
    play.note("a", "started")
    assert play.done("a", 2).output == 2


def test_what_ended_or_is_unknown_is_not_forgotten():
    play = Play(graph({"id": "a"}, {"id": "b"})).done("a", 1)
    play.progress.forget(StepKey("a"))
    play.progress.forget(StepKey("none"))
    assert play.progress.decide() == Decision()
