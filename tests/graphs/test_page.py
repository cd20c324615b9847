"""Each command line of the page on ready graphs starts a graph that takes what it is given; no graph is missing."""

import json
import re
from typing import Any

import pytest

from coordinator.submission import check_input
from tests.docs.command_lines import command_lines
from tests.docs.pages import ROOT, blocks, code_marks
from tests.graphs.bench import ready_graphs

PAGE = "docs/ready_graphs.md"
GRAPHS = ready_graphs()
LINES = [
    words for block in blocks("bash") if block.page == PAGE for words in command_lines(block.text) if words
]


def asked(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The graph that a `manta run` names, and its input as far as the command line gives it."""
    command, *rest = words
    assert command == "run"
    options = {rest[i]: rest[i + 1] for i in range(len(rest)) if rest[i].startswith("--")}
    given: dict[str, Any] = {} if rest[0].startswith("--") else {"question": rest[0]}
    if "--docs" in options:
        given["collection"] = "docs-handbook"
    return options["--graph"], given | json.loads(options.get("--input", "{}"))


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_a_line_of_the_page_fits_its_graph(words: list[str]):
    name, given = asked(words)
    check_input(GRAPHS[name], given)


def test_every_graph_is_on_the_page_with_a_line_to_run_it():
    shown = {asked(words)[0] for words in LINES}
    assert shown == set(GRAPHS) - {"research_report"}
    assert "research_report" in code_marks(ROOT / PAGE)


def test_what_comes_out_is_told():
    for part in (ROOT / PAGE).read_text().split("\n## ")[1:]:
        name, _, text = part.partition("\n")
        told = re.search(r"Output: (.*?)(?:\n\n|\Z)", text, re.S)
        assert told, name
        output = GRAPHS[name].output
        if isinstance(output, dict):
            assert set(output) == set(re.findall(r"`(\w+)`", told[1])) - {"document"}, name
