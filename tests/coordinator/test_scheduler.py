"""The pure scheduler: what it starts, what it skips, what becomes of errors, when the run is over."""

import pytest

from coordinator.scheduler import Decision, Execution, Progress, Skip
from manta.ids import StepId, StepKey
from tests.coordinator.play import ERROR, RESCUED, Play, graph, sub


def test_steps_without_needs_start_together_and_in_order():
    assert Play(graph({"id": "a"}, {"id": "b"})).under_way == ["a", "b"]


def test_a_step_waits_only_for_what_it_refers_to():
    play = Play(graph({"id": "slow"}, {"id": "fast"}, {"id": "next", "input": {"x": "${steps.fast.value}"}}))
    play.done("fast", {"value": 7})
    assert play.under_way == ["slow", "next"]
    assert play.input("next") == {"x": 7}


def test_a_decision_stays_until_it_is_noted():
    progress = Progress(graph({"id": "a"}, {"id": "b", "when": "${input}"}), None)
    first = progress.decide()
    assert progress.decide() == first
    assert [start.key for start in first.starts] == ["a"]
    assert first.skips == (Skip(StepKey("b"), first.skips[0].step),)
    progress.note(Execution(StepKey("a"), StepId("a"), "started"))
    assert progress.decide() == Decision(skips=first.skips)


def test_input_and_mixed_text_references():
    given = {"whole": "${input.n}", "text": "n is ${input.n}", "none": "${input.no}"}
    play = Play(graph({"id": "a", "input": given}), {"n": 3})
    assert play.input("a") == {"whole": 3, "text": "n is 3", "none": None}


def test_values_are_handed_on_as_they_are_not_copied():
    big = {"rows": list(range(1000))}
    play = Play(graph({"id": "a"}, {"id": "b", "input": {"all": "${steps.a}"}})).done("a", big)
    assert play.input("b")["all"] is big
    assert play.done("b", big).output is big


def test_the_kinds_get_their_options():
    play = Play(
        graph(
            {"id": "agent"},
            {"id": "tool", "tool": "count"},
            {"id": "call", "call": "m:f"},
            {"id": "runnable", "runnable": "m:r"},
            {"id": "prompt", "prompt": {"text": "Sum up ${input.text}", "temperature": "${input.t}"}},
        ),
        {"text": "it", "t": 0.5},
    )
    assert play.starts["agent"].options == {}
    assert play.starts["tool"].options == {"tool": "count"}
    assert play.starts["call"].options == {"call": "m:f"}
    assert play.starts["runnable"].options == {"runnable": "m:r"}
    prompt = play.starts["prompt"].options["prompt"]
    assert (prompt["text"], prompt["temperature"], prompt["top_p"]) == ("Sum up it", 0.5, 1.0)


def test_the_thread_is_seen_everywhere():
    nested = {"name": "n", "steps": [{"id": "b", "agent": "a", "input": {"m": "${thread.messages}"}}]}
    steps = [{"id": "a", "input": {"m": "${thread.messages}"}}, {"id": "sub", "graph": nested}]
    play = Play(graph(*steps), thread={"messages": ["hi"], "values": {}})
    assert play.input("a") == play.input("sub/b") == {"m": ["hi"]}


def test_output_is_the_last_step_or_what_the_graph_says():
    assert Play(graph({"id": "a"}, {"id": "b"})).done("a", 1).done("b", 2).output == 2
    both = graph({"id": "a"}, {"id": "b"}, output={"both": ["${steps.a}", "${steps.b}"], "in": "${input}"})
    assert Play(both, "i").done("a", 1).done("b", 2).output == {"both": [1, 2], "in": "i"}


def test_an_output_whose_reference_does_not_fit_ends_the_run_with_that():
    assert Play(graph({"id": "a"}, output="${length(steps.a)}")).done("a", 1).error["code"] == "bad_reference"


@pytest.mark.parametrize("value", [None, False, [], "", {}, 0])
def test_when_false_skips_and_those_behind_go_on_with_null(value: object):
    steps = [{"id": "maybe", "when": "${input.data}"}, {"id": "last", "input": {"m": "${steps.maybe}"}}]
    play = Play(graph(*steps), {"data": value})
    assert play.skipped == ["maybe"]
    assert play.input("last") == {"m": None}


def test_a_failed_step_ends_the_run_at_once_unless_it_may_be_skipped():
    assert Play(graph({"id": "a"}, {"id": "b"})).failed("a").error == ERROR
    play = Play(graph({"id": "a", "on_error": "skip"}, {"id": "b", "input": {"a": "${steps.a}"}}))
    assert play.failed("a").input("b") == {"a": None}


def test_an_input_that_cannot_be_put_together_is_the_steps_error():
    bad = {"id": "a", "input": {"x": "${length(input)}"}}
    play = Play(graph(bad), 1)
    assert play.settles["a"].error["code"] == "bad_reference"
    assert play.error["code"] == "bad_reference"
    assert Play(graph({**bad, "on_error": "skip"}), 1).output is None


def test_a_condition_that_cannot_be_looked_at_is_the_steps_error():
    play = Play(graph({"id": "a", "when": "${length(input)}", "on_error": "skip"}), 1)
    assert play.settles["a"].error["code"] == "bad_reference"
    assert play.output is None


def test_what_ended_in_the_same_moment_as_what_failed_is_not_left_behind():
    g = graph(sub({"id": "a"}, {"id": "b"}, {"id": "c"}, on_error="skip"), {"id": "d", "needs": ["sub"]})
    progress = Progress(g, None)
    for name in ("a", "b", "c"):
        progress.note(Execution(StepKey(f"sub/{name}"), StepId(name), "started"))
    progress.decide()
    progress.note(Execution(StepKey("sub/a"), StepId("a"), "failed", error=ERROR))
    progress.note(Execution(StepKey("sub/b"), StepId("b"), "done"))
    decision = progress.decide()
    assert decision.abandoned == ("sub/c",)
    assert [start.key for start in decision.starts] == ["d"]


def test_a_fallback_stands_in_for_a_step_that_failed():
    play = Play(graph(*RESCUED)).failed("main")
    assert play.input("rescue") == {"why": "x"}
    assert play.under_way == ["rescue"]
    assert play.done("rescue", "saved").input("after") == {"m": "saved"}


def test_a_fallback_that_is_not_needed_is_skipped():
    play = Play(graph(*RESCUED)).done("main", "fine")
    assert play.skipped == ["rescue"]
    assert play.input("after") == {"m": "fine"}


def test_a_fallback_that_fails_gives_its_own_error():
    other = {**ERROR, "code": "y"}
    assert Play(graph(*RESCUED)).failed("main").failed("rescue", other).error == other


def test_a_fallback_that_may_be_skipped_makes_the_output_null():
    steps = [RESCUED[0], {**RESCUED[1], "on_error": "skip"}, RESCUED[2]]
    assert Play(graph(*steps)).failed("main").failed("rescue").input("after") == {"m": None}


def test_a_fallback_that_does_not_want_to_lets_the_error_stand():
    steps = [RESCUED[0], {**RESCUED[1], "when": "${error.code == 'budget_exceeded'}"}, RESCUED[2]]
    play = Play(graph(*steps)).failed("main")
    assert play.skipped == ["rescue"]
    assert play.error == ERROR


def test_fallbacks_have_fallbacks():
    steps = [
        RESCUED[0],
        {**RESCUED[1], "on_error": {"fallback": "last"}},
        {"id": "last", "input": {"why": "${error.code}"}},
        RESCUED[2],
    ]
    play = Play(graph(*steps)).failed("main").failed("rescue", {**ERROR, "code": "y"})
    assert play.input("last") == {"why": "y"}
    assert play.done("last", "at last").input("after") == {"m": "at last"}


def test_the_output_of_a_graph_that_ends_with_a_fallback_is_that_of_its_step():
    assert Play(graph(*RESCUED[:2])).done("main", "fine").output == "fine"
    assert Play(graph(*RESCUED[:2])).failed("main").done("rescue", "saved").output == "saved"
