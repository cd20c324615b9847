"""The writer: findings and analyses in, one checked report out."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from agents.base import AgentSetup
from agents.context import LocalArtifacts, LocalCallLog, TaskContext
from agents.report import report_schema
from agents.scripted import ScriptedModel, ScriptedStep
from agents.writer import Writer
from manta.errors import InvalidInput
from manta.ids import RunId, StepKey
from manta.messages import (
    Analysis,
    ArtifactRef,
    CallScope,
    DroppedSentence,
    Finding,
    Passage,
    Sentence,
    Task,
    to_json,
)

GATE = Passage("a", "gates.md", 10, 63, "The harbour gate closes 45 minutes before high water.")
PUMP = Passage("b", "pumps.md", 0, 38, "Each pump moves 300 litres per second.")
CHART = ArtifactRef("pumps-1.png", "0" * 64, 10, "image/png")
QUESTION = "When does the harbour gate close, and what do the pumps cost?"
PUMP_AGAIN = Passage("b2", PUMP.document, PUMP.start, PUMP.end, PUMP.text)
FINDINGS = [
    Finding(
        "When does the harbour gate close?",
        (Sentence(GATE.text, ("a",)), Sentence(PUMP.text, ("b",), "quoted")),
        (GATE, PUMP),
        (DroppedSentence("The gate is green.", "only 40% of its words are together in a passage"),),
    ),
    Finding("How fast are pumps?", (Sentence(PUMP.text, ("b2",), "quoted"),), (PUMP_AGAIN,)),
]
ANALYSIS = Analysis(
    "Price by pump",
    (Sentence("The pump called North costs €120.00.", (), "computed"),),
    'print(\'{"rows": [{"label": "North", "price": 120}]}\')',
    '{"rows": [{"label": "North", "price": 120}]}',
    ("pumps.csv",),
    (CHART,),
)


async def write(folder: Path, model: ScriptedModel, given: dict[str, Any], **options: Any) -> dict[str, Any]:
    task = Task(CallScope(RunId("r"), StepKey("write")), "writer", to_json(given))
    context = TaskContext(
        task,
        model=model,
        documents=Nothing(),
        artifacts=LocalArtifacts(folder),
        call_log=LocalCallLog(),
        workdir=folder,
    )
    written: dict[str, Any] = await Writer(AgentSetup("writer", options=options)).run(context)
    jsonschema.Draft202012Validator(report_schema()).validate(written["report"])
    return written


class Nothing:
    async def search(self, collection: str, query: str, limit: int = 8) -> list[Passage]:
        raise AssertionError("the writer searches nothing")


async def test_the_report_has_answer_sources_analysis_and_what_was_dropped(tmp_path: Path) -> None:
    opening = "The harbour gate closes 45 minutes before high water. The gate costs 3 million euros."
    model = ScriptedModel([ScriptedStep(QUESTION, opening)])
    written = await write(
        tmp_path, model, {"question": QUESTION, "findings": FINDINGS, "analysis": {"results": [ANALYSIS]}}
    )
    report, markdown = written["report"], written["markdown"]
    assert [s["origin"] for s in report["answer"]] == ["model", "computed", "quoted"]
    assert [c["document"] for c in report["citations"]] == ["gates.md", "pumps.md"]
    assert {d["text"] for d in report["dropped"]} == {"The gate is green.", "The gate costs 3 million euros."}
    assert written["artifacts"] == [to_json(CHART)]
    assert "![Price by pump](pumps-1.png)" in markdown
    assert "The harbour gate closes 45 minutes before high water. [1]" in markdown
    assert "`gates.md`, characters 10–63" in markdown
    assert "| North | 120 |" in markdown
    assert "2 sentences of the model left out" in markdown


async def test_an_opening_may_use_computed_statements_and_no_other_number(tmp_path: Path) -> None:
    model = ScriptedModel(
        [ScriptedStep(None, "The pump called North costs €120.00. The pump called North costs €121.00.")]
    )
    written = await write(
        tmp_path, model, {"question": QUESTION, "findings": FINDINGS[:1], "analysis": {"results": [ANALYSIS]}}
    )
    texts = [(s["text"], s["origin"]) for s in written["report"]["answer"]]
    assert ("The pump called North costs €120.00.", "computed") in texts
    assert not any("121" in text for text, _ in texts)


async def test_with_nothing_found_it_says_so_and_asks_no_model(tmp_path: Path) -> None:
    findings = [Finding("Who won?"), None]
    written = await write(
        tmp_path, ScriptedModel([]), {"question": "Who won?", "findings": findings, "analysis": None}
    )
    assert written["report"]["answer"] == []
    assert written["report"]["unanswered"] == ["Who won?"]
    assert "do not answer this" in written["markdown"]


async def test_an_empty_question_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        await write(tmp_path, ScriptedModel([]), {"question": "", "findings": []})
