"""What the page on graphs says of its examples comes true."""

import pytest
import yaml

from tests.docs.graph_examples import Example, examples, is_example, play
from tests.docs.pages import ROOT, blocks

PAGE = "docs/graphs.md"
EXAMPLES = examples(PAGE)


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_a_run_comes_to_what_the_page_says(example: Example):
    run, facts = play(example), example.facts
    if "error" in facts:
        assert run.error["code"] == facts["error"]
    else:
        assert run.output == facts["output"]
    assert sorted(run.skipped) == sorted(facts.get("skipped", run.skipped))
    for key, covered in facts.get("limits", {}).items():
        assert [limit.step for limit in run.starts[key].limits] == covered
    for key, asked in facts.get("asked", {}).items():
        waiting = run.waits[key].waiting
        assert {name: waiting[name] for name in asked} == asked


def test_every_graph_on_the_page_has_an_example():
    graphs = [
        yaml.safe_load(block.text)["name"]
        for block in blocks("yaml")
        if block.page == PAGE and "steps" in yaml.safe_load(block.text)
    ]
    shown = {step.graph.name for e in EXAMPLES for step in e.graph.all_steps() if step.graph is not None}
    assert set(graphs) <= {e.graph.name for e in EXAMPLES} | shown
    assert len(EXAMPLES) >= 12


def test_every_construct_is_shown():
    text = "\n".join(block.text for block in blocks("yaml") if block.page == PAGE)
    for field in (
        "for_each",
        "quorum",
        "max_parallel",
        "when",
        "route",
        "repeat",
        "graph",
        "approval",
        "on_error",
    ):
        assert f"{field}:" in text, field
    for field in ("agent", "prompt", "tool", "call", "budget", "retry", "timeout_s", "chat", "fallback"):
        assert f"{field}:" in text, field


def test_an_example_is_no_settings_file():
    assert is_example({"answers": {}})
    assert not is_example({"models": {}})
    assert (ROOT / PAGE).is_file()
