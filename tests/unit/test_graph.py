"""Graphs are checked when they are built."""

from pathlib import Path
from typing import Any

import pytest

from manta.errors import InvalidGraph
from manta.graph import MAX_STEPS, Names, check_names, load_graph, parse_graph, resolve


def build(*steps: dict[str, Any], **more: Any) -> Any:
    return parse_graph({"name": "g", "steps": [{"agent": "a", **step} for step in steps], **more})


@pytest.mark.parametrize(
    ("steps", "cause"),
    [
        ([{"id": "a", "needs": ["b"]}, {"id": "b", "needs": ["a"]}], "in a circle"),
        ([{"id": "a", "needs": ["a"]}], "in a circle"),
        ([{"id": "a"}, {"id": "a"}], "there twice"),
        ([{"id": "a", "input": {"x": "${steps.none}"}}], "'none', which is no step"),
        ([{"id": "a", "input": {"x": "${steps.[}"}}], "is not JMESPath"),
        ([{"id": "Big"}], "steps.0.id"),
        ([{"id": "a", "tool": "t"}], "exactly one of"),
        ([{"id": "a", "when": "input.x"}], "must be one reference"),
        ([{"id": "a", "quorum": 1}], "quorum is for steps with for_each"),
        ([{"id": "a", "retry": {"attempts": 0}}], "steps.0.retry.attempts"),
        ([{"id": "a", "invented": 1}], "steps.0.invented"),
        ([], "steps"),
    ],
)
def test_a_graph_that_cannot_run_is_refused(steps: list[dict[str, Any]], cause: str):
    with pytest.raises(InvalidGraph) as refused:
        build(*steps)
    assert cause in str(refused.value)


def test_too_many_steps_are_refused():
    with pytest.raises(InvalidGraph):
        build(*({"id": f"s{n}"} for n in range(MAX_STEPS + 1)))


def test_an_output_that_refers_to_nothing_is_refused():
    with pytest.raises(InvalidGraph, match="output refers to 'b'"):
        build({"id": "a"}, output="${steps.b}")


def test_references_keep_types_alone_and_become_text_in_text():
    scope = {"input": {"n": 3, "list": [1, {"a": "b"}], "none": None}}
    assert resolve("${input.n}", scope) == 3
    assert resolve("${input.list}", scope) == [1, {"a": "b"}]
    assert resolve("n=${input.n} l=${input.list} x=${input.none}", scope) == 'n=3 l=[1, {"a": "b"}] x='
    assert resolve({"deep": ["${input.n}"], "plain": 1}, scope) == {"deep": [3], "plain": 1}


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
