"""The writer: findings and analyses become one report, as data and as Markdown.

The code merges, numbers and lays out; the model only opens the report with a few sentences, each checked
against the passages and the computed statements like every other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from agents.asking import ask, is_weak
from agents.base import AgentSetup
from agents.grounding import PLAIN, STRICT, Grounded, ground
from agents.prompting import load_prompt
from agents.report import assemble, leading
from agents.report_markdown import render
from manta.errors import InvalidInput
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

_OPENING_TOKENS = 90
_FACTS = 8
_COMPUTED = "computed:"


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
        told = [s.text for analysis in leading(analyses) for s in analysis.statements][: _FACTS // 2]
        found = [sentence.text for finding in findings for sentence in finding.sentences]
        # Without two facts there is nothing to sum up, and a model asked to would invent.
        if len(told) + len(found) < 2 or self._setup.options.get("opening") is False:
            return Grounded((), ())
        facts = [*found[: _FACTS - len(told)], *told]
        messages = load_prompt("write").messages(question=question, facts=facts)
        text = await ask(context, messages, max_tokens=_OPENING_TOKENS)
        rules = STRICT if is_weak(await context.model.info()) else PLAIN
        passages = {p.id: p for finding in findings for p in finding.passages}
        computed = [Passage(f"{_COMPUTED}{i}", "", 0, len(t), t) for i, t in enumerate(told)]
        return _settled(
            ground(
                text, [*passages.values(), *computed], rules, echoes=[question, messages[-1].content[-90:]]
            )
        )


def _settled(grounded: Grounded) -> Grounded:
    """Sentences that only computed statements support are computed ones; the others cite passages alone."""
    kept: list[Sentence] = []
    for sentence in grounded.kept:
        cited = tuple(key for key in sentence.citations if not key.startswith(_COMPUTED))
        kept.append(Sentence(sentence.text, cited, "model" if cited else "computed"))
    return Grounded(tuple(kept), grounded.dropped)


def _analysis(given: Mapping[str, Any] | None) -> tuple[list[Analysis], list[DroppedSentence]]:
    given = given or {}
    results = [from_json(Analysis, result) for result in given.get("results") or []]
    return results, [from_json(DroppedSentence, sentence) for sentence in given.get("dropped") or []]
