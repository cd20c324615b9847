"""The writer: findings and analyses become one report, as data and as Markdown.

The code merges, numbers and lays out; the model only opens the report with a few sentences. By the strategy
`pipeline` it is handed the main facts; by `agent` it reads what the run found with tools. In both each sentence
is checked against the passages and against what was computed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agents.asking import ask, is_weak
from agents.base import AgentSetup
from agents.catalog import choose_strategy
from agents.grounding import PLAIN, STRICT, Grounded, ground
from agents.prompting import load_prompt
from agents.report import assemble, leading
from agents.report_markdown import render
from agents.sentences import content_stems, numbers
from agents.tool_loop import run_tool_loop
from manta.errors import InvalidInput, NotFound
from manta.messages import (
    Analysis,
    DroppedSentence,
    Finding,
    Passage,
    Sentence,
    from_json,
    to_json,
)
from manta.protocols import AgentContext
from tools.toolbox import Tool, ToolContext

_OPENING_TOKENS = 90
_FACTS = 8
_COMPUTED = "computed:"
_OUTPUT = 8000
"""Characters of an output that a model is shown."""


class Writer:
    """Input `{question, findings, analysis}`; output `{"report", "markdown", "artifacts"}`.

    The report's usage is the run's: that of the steps before, and of the writer's own call.
    `findings` may hold nulls (sub-questions that failed under a quorum); `analysis` may be null.
    """

    def __init__(self, setup: AgentSetup) -> None:
        self._setup = setup

    async def run(self, context: AgentContext) -> Any:
        """Raises InvalidInput for an empty question."""
        given = context.task.input
        question = " ".join(str(given.get("question") or "").split())
        if not question:
            raise InvalidInput("the question is empty", fix="give a question")
        findings = [from_json(Finding, finding) for finding in given.get("findings") or [] if finding]
        analyses, dropped = _analysis(given.get("analysis"))
        opening = await self._opening(context, question, findings, analyses)
        report = assemble(
            question,
            findings,
            analyses,
            summary=opening.kept,
            dropped=(*dropped, *opening.dropped),
            usage=context.task.spent + context.usage,
        )
        charts = {ref.name: ref for analysis in analyses for ref in analysis.charts}
        return {
            "report": to_json(report),
            "markdown": render(report),
            "artifacts": to_json(list(charts.values())),
        }

    async def _opening(
        self,
        context: AgentContext,
        question: str,
        findings: Sequence[Finding],
        analyses: Sequence[Analysis],
    ) -> Grounded:
        told = [s.text for analysis in analyses for s in analysis.statements]
        found = [sentence.text for finding in findings for sentence in finding.sentences]
        # Without two facts there is nothing to sum up, and a model asked to would invent.
        if len(told) + len(found) < 2 or self._setup.options.get("opening") is False:
            return Grounded((), ())
        info = await context.model.info()
        echoes = [question]
        if choose_strategy(self._setup.strategy, info) == "agent":
            text = await self._by_agent(context, question, findings, analyses)
        else:
            leaders = [s.text for analysis in leading(analyses) for s in analysis.statements][: _FACTS // 2]
            facts = [*found[: _FACTS - len(leaders)], *leaders]
            messages = load_prompt("write").messages(question=question, facts=facts)
            text = await ask(context, messages, max_tokens=_OPENING_TOKENS)
            echoes.append(messages[-1].content[-90:])
        rules = STRICT if is_weak(info) else PLAIN
        passages = {p.id: p for finding in findings for p in finding.passages}
        computed = _computed(analyses, text)
        return _settled(ground(text, [*passages.values(), *computed], rules, echoes=echoes), computed)

    async def _by_agent(
        self,
        context: AgentContext,
        question: str,
        findings: Sequence[Finding],
        analyses: Sequence[Analysis],
    ) -> str:
        system, user = load_prompt("write_agent").messages(question=question)
        text: str = await run_tool_loop(
            context,
            system=system.content,
            user=user.content,
            tools=self._setup.tools.with_tools(*_reading_tools(findings, analyses)),
            show_tokens=True,
        )
        return text


def _computed(analyses: Sequence[Analysis], text: str) -> list[Passage]:
    """What code printed, as passages a text can be held against: the statements made of it, and single cells.

    A cell comes with its row's names and its column's, so that no number can be given to another row. Only cells
    whose number the text has are made: an output may hold thousands.
    """
    claimed = numbers(text)
    texts = [s.text for analysis in analyses for s in analysis.statements]
    for analysis in analyses:
        texts += [f"{analysis.title}, {cell}." for cell in _cells(analysis.output) if numbers(cell) & claimed]
    return [Passage(f"{_COMPUTED}{i}", "", 0, len(told), told) for i, told in enumerate(dict.fromkeys(texts))]


def _cells(output: str) -> Iterator[str]:
    """Each number of an output with the names around it; an output that is not JSON goes by its lines."""
    try:
        printed = json.loads(output)
    except ValueError:
        yield from filter(None, map(str.strip, output.splitlines()))
        return
    yield from _cells_of(printed, "")


def _cells_of(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        row = " ".join(text for text in value.values() if isinstance(text, str))
        for key, inner in value.items():
            yield from _cells_of(inner, " ".join(filter(None, [name, row, str(key).replace("_", " ")])))
    elif isinstance(value, list):
        for inner in value:
            yield from _cells_of(inner, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield f"{name} {value}"


def _reading_tools(findings: Sequence[Finding], analyses: Sequence[Analysis]) -> list[Tool]:
    """Tools over what the run has read and computed. Passages go by short numbers: hashes are copied badly."""
    passages = list({p.id: p for finding in findings for p in finding.passages}.values())
    numbered = {passage.id: str(number) for number, passage in enumerate(passages, start=1)}

    async def list_findings(arguments: Mapping[str, Any], context: ToolContext | None) -> Any:
        return {
            "findings": [
                {
                    "question": finding.question,
                    "sentences": [
                        {
                            "text": s.text,
                            "passages": [numbered[key] for key in s.citations if key in numbered],
                        }
                        for s in finding.sentences
                    ],
                }
                for finding in findings
            ],
            "passages": [{"id": numbered[p.id], "document": p.document} for p in passages],
            "analyses": [analysis.title for analysis in analyses],
        }

    async def read_passage(arguments: Mapping[str, Any], context: ToolContext | None) -> Any:
        wanted = next((p for p in passages if numbered[p.id] == str(arguments["id"]).strip(" []")), None)
        if wanted is None:
            raise NotFound(f"there is no passage {arguments['id']!r}", fix=f"ids: 1 to {len(passages)}")
        return {"id": numbered[wanted.id], "document": wanted.document, "text": wanted.text}

    async def read_analysis(arguments: Mapping[str, Any], context: ToolContext | None) -> Any:
        wanted = [analysis for analysis in analyses if analysis.title == arguments["title"]]
        if not wanted:
            known = "; ".join(analysis.title for analysis in analyses) or "none"
            raise NotFound(f"there is no analysis {arguments['title']!r}", fix=f"titles: {known}")
        return [
            {"statements": [s.text for s in one.statements], "output": one.output[:_OUTPUT]} for one in wanted
        ]

    return [
        Tool("list_findings", "What was found: sentences, passages, analyses.", _takes(), list_findings),
        Tool("read_passage", "A passage in full, by its id.", _takes("id"), read_passage),
        Tool("read_analysis", "What an analysis computed, by its title.", _takes("title"), read_analysis),
    ]


def _takes(*names: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": "string", "minLength": 1} for name in names},
        "required": list(names),
        "additionalProperties": False,
    }


def _settled(grounded: Grounded, computed: Sequence[Passage]) -> Grounded:
    """Sentences that only computed statements support are computed ones; the others cite passages alone.

    A computed one may have no word that was not computed: one more may be another row's name.
    """
    printed = {passage.id: set(content_stems(passage.text)) for passage in computed}
    kept: list[Sentence] = []
    dropped = list(grounded.dropped)
    for sentence in grounded.kept:
        cited = tuple(key for key in sentence.citations if key not in printed)
        said = content_stems(sentence.text)
        strange = [
            [word for word in said if word not in printed[key]] for key in sentence.citations if not cited
        ]
        if strange and all(strange):
            dropped.append(
                DroppedSentence(sentence.text, f"'{strange[0][0]}' was not computed with this number")
            )
        else:
            kept.append(Sentence(sentence.text, cited, "model" if cited else "computed"))
    return Grounded(tuple(kept), tuple(dropped))


def _analysis(given: Mapping[str, Any] | None) -> tuple[list[Analysis], list[DroppedSentence]]:
    given = given or {}
    results = [from_json(Analysis, result) for result in given.get("results") or []]
    return results, [from_json(DroppedSentence, sentence) for sentence in given.get("dropped") or []]
