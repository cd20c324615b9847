"""The writer: findings and analyses in, one checked report out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

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
    ToolCall,
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


async def write(
    folder: Path,
    model: ScriptedModel,
    given: dict[str, Any],
    *,
    log: LocalCallLog | None = None,
    strategy: Literal["auto", "pipeline", "agent"] = "auto",
) -> dict[str, Any]:
    task = Task(CallScope(RunId("r"), StepKey("write")), "writer", to_json(given))
    context = TaskContext(
        task,
        model=model,
        documents=Nothing(),
        artifacts=LocalArtifacts(folder),
        call_log=log or LocalCallLog(),
        workdir=folder,
    )
    written: dict[str, Any] = await Writer(AgentSetup("writer", strategy=strategy)).run(context)
    jsonschema.Draft202012Validator(report_schema()).validate(written["report"])
    return written


def log_names(log: LocalCallLog) -> list[str]:
    return [call.name for call in log.calls(CallScope(RunId("r"), StepKey("write")))]


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


def reading(answer: str) -> ScriptedModel:
    """A model that looks at everything with the tools, then answers."""
    calls = (
        ToolCall("c1", "list_findings", {}),
        ToolCall("c2", "read_passage", {"id": "1"}),
        ToolCall("c3", "read_analysis", {"title": ANALYSIS.title}),
        ToolCall("c4", "read_passage", {"id": "9"}),
    )
    return ScriptedModel(
        [ScriptedStep(QUESTION, "", calls), ScriptedStep(None, answer)], abilities=("tools",)
    )


NORTH = "Of the pumps, the pump called North costs €120.00."
GIVEN = {"question": QUESTION, "findings": FINDINGS, "analysis": {"results": [ANALYSIS]}}


async def test_a_model_that_calls_tools_reads_what_was_found_and_is_checked_alike(tmp_path: Path) -> None:
    model = reading(
        "The harbour gate closes 45 minutes before high water [1]. The harbour gate was built by an old king [2]. "
        f"{NORTH} The pump that is called South costs €120.00."
    )
    log = LocalCallLog()
    written = await write(tmp_path, model, GIVEN, log=log)
    model.assert_complete()
    listed, passage, analysis, missing = [m.content for m in model.requests[1].messages if m.role == "tool"]
    assert '"passages": ["1"]' in listed
    assert GATE.text in passage
    assert ANALYSIS.output in json.loads(analysis)[0]["output"]
    assert "no passage '9'" in missing
    report = written["report"]
    opening = [report["answer"][place] for place in report["sections"][0]["sentences"]]
    assert [(s["text"], s["citations"], s["origin"]) for s in opening] == [
        (GATE.text, ["1"], "model"),
        (NORTH, [], "computed"),
    ]
    dropped = {d["text"] for d in report["dropped"]}
    assert {
        "The harbour gate was built by an old king.",
        "The pump that is called South costs €120.00.",
    } <= dropped
    tools = [name for name in log_names(log) if name in ("list_findings", "read_passage", "read_analysis")]
    assert tools.count("read_passage") == 2
    assert len(tools) == 4


async def test_a_replay_of_the_loop_asks_no_model(tmp_path: Path) -> None:
    log = LocalCallLog()
    first = await write(tmp_path, reading(f"{GATE.text} {PUMP.text}"), GIVEN, log=log)
    silent = ScriptedModel([], abilities=("tools",))
    again = await write(tmp_path, silent, GIVEN, log=log)
    assert silent.requests == []
    assert again["report"] == first["report"]


async def test_the_settings_choose_the_loop_over_the_models_abilities(tmp_path: Path) -> None:
    looping = ScriptedModel([ScriptedStep(QUESTION, GATE.text)])
    await write(tmp_path, looping, GIVEN, strategy="agent")
    assert [tool.name for tool in looping.requests[0].tools] == [
        "list_findings",
        "read_passage",
        "read_analysis",
    ]
    plain = ScriptedModel([ScriptedStep("Facts:", GATE.text)], abilities=("tools",))
    await write(tmp_path, plain, GIVEN, strategy="pipeline")
    assert plain.requests[0].tools == ()


@pytest.mark.parametrize(
    ("claim", "stands"),
    [
        ("By price by pump, the price of North is 120.", True),
        ("By price by pump, the price of North is 95.", False),
        ("By price by pump, the price of South is 120.", False),
    ],
)
async def test_a_number_of_the_output_stands_only_beside_the_names_of_its_row(
    tmp_path: Path, claim: str, stands: bool
) -> None:
    output = '{"rows": [{"label": "North", "price": 120}, {"label": "South", "price": 95}]}'
    given = {**GIVEN, "analysis": {"results": [replace(ANALYSIS, output=output)]}}
    written = await write(tmp_path, ScriptedModel([ScriptedStep(None, claim)], abilities=("json",)), given)
    assert (claim in [s["text"] for s in written["report"]["answer"]]) is stands


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
