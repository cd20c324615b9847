"""The report: its parts, its assembly from findings and analyses, and how it reads as Markdown.

`report_schema.json` beside this file documents the JSON form.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from agents.sentences import content_stems, same
from manta.messages import Analysis, DroppedSentence, Finding, Passage, Sentence, Usage

SCHEMA_FILE = Path(__file__).with_name("report_schema.json")
_STATED = 6
"""Computed statements that are told in the answer itself; the rest stand under the analysis."""

_ANSWERS = 0.4
"""Least share of a sub-question's words in an analysis for it to stand under that sub-question."""


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage the answer cites. `text` is verbatim: the document's characters from `start` to `end`."""

    id: str
    document: str
    start: int
    end: int
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the answer: the question it is about and the places of its sentences in `answer`."""

    question: str
    sentences: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """`unanswered`: sub-questions for which the documents had nothing."""

    question: str
    answer: tuple[Sentence, ...]
    citations: tuple[Citation, ...]
    analysis: tuple[Analysis, ...]
    usage: Usage
    dropped: tuple[DroppedSentence, ...]
    sections: tuple[Section, ...] = ()
    unanswered: tuple[str, ...] = ()


def report_schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return schema


def assemble(
    question: str,
    findings: Sequence[Finding],
    analyses: Sequence[Analysis] = (),
    *,
    summary: Sequence[Sentence] = (),
    dropped: Iterable[DroppedSentence] = (),
    usage: Usage = Usage(),
) -> Report:
    """Merge findings into one answer: repeated sentences once, citations numbered in the order of reading.

    Args:
        summary: sentences that open the answer; they cite passages of the findings by id.
    """
    passages = {passage.id: passage for finding in findings for passage in finding.passages}
    answer: list[Sentence] = []
    sections: list[Section] = []
    parts = [(question, summary), *_parts(findings, leading(analyses))]
    for title, sentences in parts:
        places = []
        for sentence in sentences:
            cited = tuple(dict.fromkeys(c for c in sentence.citations if c in passages))
            sound = bool(cited) or sentence.origin == "computed"
            if sound and not any(same(sentence.text, other.text, 0.9) for other in answer):
                places.append(len(answer))
                answer.append(replace(sentence, citations=cited))
        if places:
            sections.append(Section(title, tuple(places)))
    numbers = _numbering(answer, passages)
    return Report(
        question=question,
        answer=tuple(replace(s, citations=_renumber(s.citations, passages, numbers)) for s in answer),
        citations=tuple(
            _citation(number, passages[key]) for key, number in _first_keys(answer, passages, numbers)
        ),
        analysis=tuple(analyses),
        usage=usage,
        dropped=(*(d for finding in findings for d in finding.dropped), *dropped),
        sections=tuple(sections),
        unanswered=tuple(f.question for f in findings if f.question not in {s.question for s in sections}),
    )


def leading(analyses: Sequence[Analysis]) -> list[Analysis]:
    """The first analysis of each data file that came to something: those that answer best."""
    first: dict[tuple[str, ...], Analysis] = {}
    for analysis in analyses:
        if analysis.statements:
            first.setdefault(analysis.data_files, analysis)
    return list(first.values())


def _parts(findings: Sequence[Finding], analyses: Sequence[Analysis]) -> list[tuple[str, Sequence[Sentence]]]:
    """Headings and sentences. What was computed stands under the sub-question it answers, else in front."""
    free = list(analyses)
    parts: list[tuple[str, Sequence[Sentence]]] = []
    for finding in findings:
        mine = [analysis for analysis in free if _answers(analysis, finding.question)]
        free = [analysis for analysis in free if analysis not in mine]
        computed = [s for analysis in mine for s in analysis.statements[:_STATED]]
        parts.append((finding.question, [*computed, *finding.sentences]))
    return [*((a.title, a.statements[:_STATED]) for a in free), *parts]


def _answers(analysis: Analysis, question: str) -> bool:
    asked = set(content_stems(question))
    told = set(content_stems(" ".join([analysis.title, *(s.text for s in analysis.statements)])))
    return len(asked & told) >= max(2, _ANSWERS * len(asked))


_Place: TypeAlias = tuple[str, int, int]


def _place(passage: Passage) -> _Place:
    return passage.document, passage.start, passage.end


def _numbering(answer: Sequence[Sentence], passages: dict[str, Passage]) -> dict[_Place, str]:
    """Numbers by place: two findings may have read the same passage."""
    places = dict.fromkeys(_place(passages[key]) for sentence in answer for key in sentence.citations)
    return {place: str(number) for number, place in enumerate(places, start=1)}


def _renumber(
    keys: Sequence[str], passages: dict[str, Passage], numbers: dict[_Place, str]
) -> tuple[str, ...]:
    return tuple(dict.fromkeys(numbers[_place(passages[key])] for key in keys))


def _first_keys(
    answer: Sequence[Sentence], passages: dict[str, Passage], numbers: dict[_Place, str]
) -> list[tuple[str, str]]:
    first: dict[str, str] = {}
    for sentence in answer:
        for key in sentence.citations:
            first.setdefault(numbers[_place(passages[key])], key)
    return [(key, number) for number, key in first.items()]


def _citation(number: str, passage: Passage) -> Citation:
    return Citation(number, passage.document, passage.start, passage.end, passage.text, passage.source)
