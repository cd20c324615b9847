"""Graphs are checked when they are built."""

import json
from pathlib import Path
from typing import Any

import pytest

from manta.errors import InvalidGraph
from manta.graph import KINDS, MAX_DEPTH, MAX_STEPS, Graph, Names, check_names, embed, load_graph, parse_graph


def build(*steps: dict[str, Any], **more: Any) -> Graph:
    full = [step if step.keys() & set(KINDS) else {"agent": "a", **step} for step in steps]
    return parse_graph({"name": "g", "steps": full, **more})


def ids(graph: Graph) -> list[str]:
    return [step.id for step in graph.steps]


def route(*names: str, **more: Any) -> dict[str, Any]:
    return {"id": "r", "route": {"choose": "${input}", "branches": {name: [] for name in names}, **more}}


FALLBACK = {"on_error": {"fallback": "f"}}


@pytest.mark.parametrize(
    ("steps", "cause"),
    [
        ([{"id": "a", "needs": ["b"]}, {"id": "b", "needs": ["a"]}], "in a circle"),
        ([{"id": "a", "needs": ["a"]}], "in a circle"),
        ([{"id": "a"}, {"id": "a"}], "there twice"),
        ([{"id": "a", "input": {"x": "${steps.none}"}}], "'none', which is no step"),
        ([{"id": "a", "input": {"x": "${steps.[}"}}], "is not JMESPath"),
        ([{"id": "a", "input": {"x": "${input.x"}}], "is not closed"),
        ([{"id": "Big"}], "steps.0.id"),
        ([{"id": "a", "agent": "a", "tool": "t"}], "exactly one of"),
        ([{"id": "a", "when": "input.x"}], "must be one reference"),
        ([{"id": "a", "repeat": {"until": "output.x", "max": 2}}], "repeat.until must be one reference"),
        ([{"id": "a", "quorum": 1}], "quorum is for steps with for_each"),
        ([{"id": "a", "retry": {"attempts": 0}}], "steps.0.retry.attempts"),
        ([{"id": "a", "invented": 1}], "steps.0.invented"),
        ([], "steps"),
        # What a reference may name depends on where it stands.
        ([{"id": "a", "input": {"x": "${inputs.x}"}}], "no 'inputs' here; there are input, steps, thread"),
        ([{"id": "a", "input": {"x": "${item}"}}], "no 'item' here"),
        ([{"id": "a", "for_each": "${item}"}], "no 'item' here"),
        ([{"id": "a", "for_each": "${input}", "when": "${item}"}], "no 'item' here"),
        ([{"id": "a", "input": {"x": "${previous}"}}], "no 'previous' here"),
        (
            [{"id": "a", "repeat": {"until": "${output}", "max": 2}, "input": {"x": "${output}"}}],
            "no 'output' here",
        ),
        ([{"id": "a", "input": {"x": "${error}"}}], "no 'error' here"),
        ([{"id": "a", **FALLBACK}, {"id": "f"}, {"id": "b", "input": {"x": "${error}"}}], "no 'error' here"),
        ([{"id": "a", "input": {"x": "${steps}"}}], "a step's id behind it"),
        ([{"id": "a", "input": {"x": "${keys(@)}"}}], "names everything at once"),
        ([{"id": "a", "when": "${!input.x}"}], "`!` binds closer than `.`"),
        # Routes.
        ([route("a"), {"id": "r", "agent": "x"}], "there twice"),
        ([{"id": "r", "route": {"choose": "${input}", "branches": {"x": ["none"]}}}], "routes to 'none'"),
        ([{"id": "r", "route": {"choose": "${input}", "branches": {"x": ["r"]}}}], "in a circle"),
        ([route("Yes", "yes")], "branch 'yes' is there twice"),
        ([route("default", default=[])], "no branch can be called 'default'"),
        ([{**route("x"), "for_each": "${input}"}], "cannot have for_each; put it into a sub-graph"),
        # Fallbacks.
        ([{"id": "a", "on_error": {"fallback": "none"}}], "falls back to 'none', which is no step"),
        ([{"id": "a", "on_error": {"fallback": "a"}}], "in a circle"),
        ([{"id": "a", **FALLBACK}, {"id": "b", **FALLBACK}, {"id": "f"}], "the fallback of two steps"),
        ([{"id": "a", **FALLBACK}, {"id": "b", "needs": ["a"]}, {"id": "f", "needs": ["b"]}], "in a circle"),
    ],
)
def test_a_graph_that_cannot_run_is_refused(steps: list[dict[str, Any]], cause: str):
    with pytest.raises(InvalidGraph) as refused:
        build(*steps)
    assert cause in str(refused.value)


def test_a_reference_may_name_what_there_is_where_it_stands():
    step = {
        "id": "a",
        "for_each": "${input.list}",
        "input": {"x": "${item} ${index} ${previous} ${iteration} ${thread.messages}"},
        "repeat": {"until": "${output.done && item && previous}", "max": 2},
        **FALLBACK,
    }
    fallback = {"id": "f", "when": "${error.code}", "input": {"e": "${error}", "a": "${steps.a}"}}
    assert build(step, fallback).step("f").depends_on == {"a"}


def test_steps_are_in_an_order_that_keeps_what_was_written_where_it_can():
    assert ids(build({"id": "a"}, {"id": "b", "needs": ["a"]}, {"id": "c"})) == ["a", "b", "c"]
    assert ids(build({"id": "c", "needs": ["b"]}, {"id": "b"}, {"id": "a"})) == ["b", "c", "a"]


def test_who_needs_a_step_waits_for_its_fallbacks_too():
    graph = build(
        {"id": "a", **FALLBACK},
        {"id": "f", "on_error": {"fallback": "g"}, "input": {"a": "${steps.a}"}},
        {"id": "g"},
        {"id": "b", "needs": ["a"]},
    )
    assert graph.dependencies == {"a": set(), "f": {"a"}, "g": {"f"}, "b": {"a", "f", "g"}}


def test_branches_wait_for_their_route():
    graph = build(
        {"id": "a"},
        {"id": "r", "route": {"choose": "${input}", "branches": {"x": ["a"]}, "default": ["b"]}},
        {"id": "b"},
    )
    assert graph.dependencies == {"r": set(), "a": {"r"}, "b": {"r"}}
    assert ids(graph) == ["r", "a", "b"]


def test_the_largest_graph_is_read_in_no_time():
    """Its steps are in the worst order: each is written before the one it needs."""
    steps = [{"id": f"s{n}", "needs": [f"s{n + 1}"]} for n in range(MAX_STEPS - 1)]
    graph = build(*steps, {"id": f"s{MAX_STEPS - 1}"})
    assert ids(graph) == [f"s{n}" for n in reversed(range(MAX_STEPS))]


LIBRARY = {
    "leaf": build({"id": "a"}),
    "middle": build({"id": "l", "graph": "leaf"}),
    "round": build({"id": "r", "graph": "about"}),
    "about": build({"id": "a", "graph": "round"}),
}


def test_named_sub_graphs_are_written_out():
    whole = embed(build({"id": "m", "graph": "middle"}, {"id": "l", "graph": "leaf"}), LIBRARY)
    assert [step.id for step in whole.all_steps()] == ["m", "l", "a", "l", "a"]
    assert whole.count() == 5
    assert embed(whole, {}) == whole


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("none", "names graph 'none'; there are: about, leaf, middle, round"),
        ("round", "round > about > round"),
    ],
)
def test_sub_graphs_that_are_not_there_or_go_round_are_refused(name: str, cause: str):
    with pytest.raises(InvalidGraph) as refused:
        embed(build({"id": "s", "graph": name}), LIBRARY)
    assert cause in str(refused.value)


def test_a_written_out_sub_graph_may_be_called_as_it_likes():
    inner = {"name": "g", "steps": [{"id": "g", "graph": "leaf"}]}
    assert embed(build({"id": "g", "graph": inner}), LIBRARY).count() == 3


def test_sub_graphs_may_be_so_deep_and_no_deeper():
    def nested(depth: int) -> dict[str, Any]:
        step: dict[str, Any] = {"id": "s", "agent": "a"}
        for _ in range(depth - 1):
            step = {"id": "s", "graph": {"steps": [step]}}
        return step

    assert embed(build(nested(MAX_DEPTH)), {}).count() == MAX_DEPTH
    with pytest.raises(InvalidGraph, match="too deep"):
        embed(build(nested(MAX_DEPTH + 1)), {})
    with pytest.raises(InvalidGraph):
        build(nested(5000))


def test_the_steps_of_sub_graphs_count():
    inner = {"steps": [{"id": f"s{n}", "agent": "a"} for n in range(MAX_STEPS)]}
    with pytest.raises(InvalidGraph, match="with its sub-graphs, this has 1001"):
        build({"id": "s", "graph": inner})


def test_a_graph_is_the_same_after_a_journey_through_json():
    graph = build(
        {"id": "p", "prompt": "Say ${input.x}", **FALLBACK},
        {"id": "f", "approval": {"question": "?", "timeout_s": 5}},
        route("x", default=["s"]),
        {
            "id": "s",
            "graph": {"steps": [{"id": "a", "tool": "t", "budget": {"tokens": 5}}]},
            "for_each": "${input}",
        },
    )
    again = parse_graph(json.loads(json.dumps(graph.plain)))
    assert again == graph
    assert again.version == graph.version
    assert (
        build({"id": "p", "prompt": "Say ${input.y}"}).version
        != build({"id": "p", "prompt": "Say ${input.x}"}).version
    )


def test_too_many_steps_are_refused():
    with pytest.raises(InvalidGraph):
        build(*({"id": f"s{n}"} for n in range(MAX_STEPS + 1)))


def test_an_output_that_refers_to_nothing_is_refused():
    with pytest.raises(InvalidGraph, match="output refers to 'b'"):
        build({"id": "a"}, output="${steps.b}")


def test_a_call_may_name_its_pool_and_nothing_else_may():
    graph = build({"id": "s", "agent": None, "call": "m:f", "pool": "slow"})
    check_names(graph, Names(frozenset({"slow"}), frozenset()))
    with pytest.raises(InvalidGraph, match="names agent 'slow'"):
        check_names(graph, Names(frozenset({"b"}), frozenset()))
    with pytest.raises(InvalidGraph, match="pool is for steps with call"):
        build({"id": "s", "pool": "slow"})
    # The versions of graphs that name none are as they were before there was any.
    assert "pool" not in build({"id": "s", "agent": None, "call": "m:f"}).plain["steps"][0]


def test_names_are_checked_against_what_there_is():
    with pytest.raises(InvalidGraph, match="names agent 'a'; there are: b"):
        check_names(build({"id": "s"}), Names(frozenset({"b"}), frozenset()))


@pytest.mark.parametrize(
    "path", sorted(Path("coordinator/graphs").glob("*.yaml")), ids=lambda path: path.stem
)
def test_ready_graphs_load_and_are_named_like_their_files(path: Path):
    graph = load_graph(path)
    assert graph.name == path.stem
    assert graph.description


def test_a_file_that_is_not_there_or_not_yaml(tmp_path: Path):
    with pytest.raises(InvalidGraph, match="cannot read"):
        load_graph(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(InvalidGraph):
        load_graph(tmp_path / "bad.yaml")
