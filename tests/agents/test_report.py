"""Reports as a whole: their parts put together, and three questions nobody tuned the code for, on real parts."""

import csv
import json
import statistics
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import pytest_asyncio

from agents.analyst import unbacked
from agents.report import assemble, report_schema
from agents.report_markdown import render
from agents.sentences import clean, numbers
from manta.graph import load_graph
from manta.messages import Analysis, Finding, Passage, Sentence, from_json, to_json
from serve_app.engine.embeddings import SentenceEmbedder
from serve_app.engine.engine import Engine, EngineConfig
from serve_app.engine.weights import embedded_embedder_path, embedded_llm_path
from tests.agents.report_support import Bench, EngineEmbedder, EngineModel, flat
from tests.agents.unseen import SETS, UnseenSet
from tools.documents import DocumentStore

ROOT = Path(__file__).parents[2]


def passage(key: str, document: str, text: str, start: int = 0) -> Passage:
    return Passage(key, document, start, start + len(text), text)


def test_citations_are_numbered_by_reading_and_merged_by_place() -> None:
    first, second = passage("x", "a.md", "Ships wait here."), passage("y", "b.md", "Pumps run at night.")
    same_place = passage("z", "a.md", "Ships wait here.")
    findings = [
        Finding("One?", (Sentence("Pumps run at night.", ("y",)),), (first, second)),
        Finding(
            "Two?",
            (Sentence("Ships wait here in fog.", ("x",)), Sentence("A third.", ("z", "y"))),
            (same_place, second, first),
        ),
    ]
    report = assemble("One and two?", findings)
    assert [(c.id, c.document) for c in report.citations] == [("1", "b.md"), ("2", "a.md")]
    assert [s.citations for s in report.answer] == [("1",), ("2",), ("2", "1")]
    jsonschema.Draft202012Validator(report_schema()).validate(to_json(report))


def test_a_citation_of_a_passage_that_was_not_read_takes_its_sentence_out() -> None:
    report = assemble("Q?", [Finding("Q?", (Sentence("Ghosts sail here.", ("nowhere",)),), ())])
    assert report.answer == ()
    assert report.unanswered == ("Q?",)


def test_text_of_documents_does_not_become_markup() -> None:
    text = "<script>alert(1)</script> [click](http://evil.example) *now* for the harbour gate."
    report = assemble(
        "Q?", [Finding("Q?", (Sentence(text, ("x",), "quoted"),), (passage("x", "a.md", text),))]
    )
    markdown = render(report)
    assert "<script>" not in markdown
    assert "[click](" not in markdown


def test_what_was_computed_stands_under_the_question_it_answers() -> None:
    cost = Analysis(
        "Cost per hour", (Sentence("The cost per hour is $3.00.", (), "computed"),), "", "{}", ("a.csv",)
    )
    findings = [
        Finding(
            "How do gates work?", (Sentence("Gates close.", ("x",)),), (passage("x", "a.md", "Gates close."),)
        ),
        Finding("What is the cost per hour?"),
    ]
    report = assemble("Both?", findings, [cost])
    assert [section.question for section in report.sections] == [
        "How do gates work?",
        "What is the cost per hour?",
    ]
    assert report.unanswered == ()


def test_the_schema_refuses_a_written_sentence_without_citation() -> None:
    report = to_json(assemble("Q?", []))
    report["answer"] = [{"text": "Trust me.", "citations": [], "origin": "model"}]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(report_schema()).validate(report)


def test_the_graph_names_the_four_agents() -> None:
    graph = load_graph(ROOT / "coordinator" / "graphs" / "research_report.yaml")
    assert {step.agent for step in graph.steps} == {"planner", "research", "analyst", "writer"}
    assert graph.step("write").depends_on == {"research", "analyse"}
    jsonschema.Draft202012Validator.check_schema(graph.input_schema)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine.load(embedded_llm_path(), EngineConfig(quantize="int8"))
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def embedder() -> EngineEmbedder:
    return EngineEmbedder(SentenceEmbedder.load(embedded_embedder_path()))


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=SETS, ids=lambda unseen: unseen.name)
async def made(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    engine: Engine,
    embedder: EngineEmbedder,
) -> AsyncIterator[tuple[UnseenSet, dict[str, Any], Bench]]:
    """A report on each set; writing it is what takes long."""
    unseen: UnseenSet = request.param
    tmp_path = tmp_path_factory.mktemp(unseen.name)
    store = DocumentStore(tmp_path / "documents", embedder)
    for name, text in unseen.documents.items():
        await store.add(unseen.name, name, text.encode())
    data = tmp_path / unseen.table_name
    data.write_text(unseen.table)
    bench = Bench(EngineModel(engine), store, tmp_path / "bench")
    yield unseen, await bench.report(unseen.question, unseen.name, [data]), bench


@pytest.mark.asyncio(loop_scope="module")
async def test_an_unseen_set_gives_a_report_that_holds(made: tuple[UnseenSet, dict[str, Any], Bench]) -> None:
    unseen, written, bench = made
    report = written["report"]
    jsonschema.Draft202012Validator(report_schema()).validate(report)
    citations = {c["id"]: c for c in report["citations"]}
    supported = [s for s in report["answer"] if s["citations"]]
    assert len(citations) >= 3
    assert len({c["document"] for c in citations.values()}) >= 2
    assert len(supported) >= 3
    for citation in citations.values():
        whole = await bench.documents.text(unseen.name, citation["document"])  # type: ignore[attr-defined]
        assert whole[citation["start"] : citation["end"]] == citation["text"]
    for sentence in supported:
        read = " ".join(citations[key]["text"] for key in sentence["citations"])
        assert numbers(sentence["text"]) <= numbers(read)
        if sentence["origin"] == "quoted":
            assert sentence["text"] in flat(clean(read))
    for analysis in report["analysis"]:
        assert all(not unbacked(s["text"], analysis["output"]) for s in analysis["statements"])
    assert bench.usage.model_calls >= 3
    assert written["artifacts"]


@pytest.mark.asyncio(loop_scope="module")
async def test_its_numbers_can_be_computed_again(made: tuple[UnseenSet, dict[str, Any], Bench]) -> None:
    unseen, written, _ = made
    rows = list(csv.DictReader(unseen.table.splitlines()))
    outputs = [json.loads(a["output"]) for a in written["report"]["analysis"]]
    groups = next(output["groups"] for output in outputs if "groups" in output)
    for group in groups:
        values = [float(row[unseen.measure]) for row in rows if row[unseen.group] == group["label"]]
        assert group["count"] == len(values)
        assert group["mean"] == pytest.approx(statistics.mean(values), rel=1e-3, abs=0.01)
        assert (group["min"], group["max"]) == (min(values), max(values))
    assert {group["label"] for group in groups} == {row[unseen.group] for row in rows}
    told = [s["text"] for s in written["report"]["answer"] if s["origin"] == "computed"]
    assert any(unseen.expected in text for text in told), told
    assert from_json(Finding, written["findings"][0]).passages
