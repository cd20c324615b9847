"""A report as Markdown for people: the answer first, then the analysis, the sources, and how it was checked."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from agents.report import Citation, Report, Section
from manta.messages import Analysis, Sentence

_TABLE_ROWS = 15
_QUOTED = 320


def render(report: Report) -> str:
    """Markdown. Charts are named relative to the report's own folder."""
    parts = [f"# {_text(report.question)}", "## Answer", *_answer(report)]
    told = {sentence.text for sentence in report.answer}
    if report.analysis:
        parts += [
            "## Analysis",
            *(part for analysis in report.analysis for part in _analysis(analysis, told)),
        ]
    if report.citations:
        parts += ["## Sources", *map(_source, report.citations)]
    parts += ["## How this was checked", _checks(report)]
    return "\n\n".join(parts) + "\n"


def _answer(report: Report) -> list[str]:
    if not report.answer:
        return [
            "The documents do not answer this, and there is no data that does. Nothing was made up instead."
        ]
    parts = [part for section in report.sections for part in _section(report, section)]
    if report.unanswered:
        missing = "; ".join(_text(question) for question in report.unanswered)
        parts.append(f"*Nothing that was read answers: {missing}*")
    return parts


def _section(report: Report, section: Section) -> list[str]:
    sentences = [report.answer[place] for place in section.sentences]
    heading = [] if section.question == report.question else [f"### {_text(section.question)}"]
    written = " ".join(_cited(s) for s in sentences if s.origin == "model")
    computed = "\n".join(f"- {_text(s.text)}" for s in sentences if s.origin == "computed")
    quoted = "\n".join(f"- {_cited(s)}" for s in sentences if s.origin == "quoted")
    lead = "In the words of the sources:" if quoted else ""
    return [*heading, *(part for part in (written, computed, lead, quoted) if part)]


def _cited(sentence: Sentence) -> str:
    marks = "".join(f"[{citation}]" for citation in sentence.citations)
    text = f"“{_text(sentence.text)}”" if sentence.origin == "quoted" else _text(sentence.text)
    return f"{text} {marks}".strip()


def _analysis(analysis: Analysis, told: set[str]) -> list[str]:
    parts = [f"### {_text(analysis.title)}"]
    if not analysis.statements:
        parts.append(f"This could not be computed: `{analysis.output[:200]}`")
    parts += [f"![{_text(analysis.title)}]({chart.name})" for chart in analysis.charts]
    parts += _table(analysis.output)
    rest = [s.text for s in analysis.statements if s.text not in told]
    if rest:
        parts.append("\n".join(f"- {_text(text)}" for text in rest))
    code = f"```python\n{analysis.code.strip()}\n```\n\nIt printed:\n\n```json\n{analysis.output.strip()[:4000]}\n```"
    files = ", ".join(_text(name) for name in analysis.data_files)
    return [
        *parts,
        f"<details><summary>The code that ran on {files}, and its output</summary>\n\n{code}\n\n</details>",
    ]


def _table(output: str) -> list[str]:
    """The first list of rows in what the code printed, as a table; nothing where there is none."""
    try:
        printed = json.loads(output)
    except ValueError:
        return []
    values = printed.values() if isinstance(printed, dict) else []
    found: list[dict[str, Any]] = next((value for value in values if _are_rows(value)), [])
    rows = [{k: v for k, v in row.items() if not isinstance(v, list | dict) and v != ""} for row in found]
    if not rows:
        return []
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [
        _row([_heading(name) for name in names]),
        _row(["---" if n in ("label", "name") else "---:" for n in names]),
    ]
    lines += [_row([_cell(row.get(name)) for name in names]) for row in rows[:_TABLE_ROWS]]
    more = (
        [f"*{len(rows) - _TABLE_ROWS} further rows are in the output below.*"]
        if len(rows) > _TABLE_ROWS
        else []
    )
    return ["\n".join(lines), *more]


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _heading(name: str) -> str:
    return "" if name == "label" else _text(name.replace("_", " "))


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:,}" if isinstance(value, int | float) else str(value)
    return _text(text).replace("|", "\\|").replace("\n", " ")


def _source(citation: Citation) -> str:
    # Headings and list marks of the source would read as noise in one line; report.json has the text as it is.
    quote = " ".join(
        re.sub(r"^\s*(?:#{1,6}|[-*+])\s+", "", citation.text.replace("``", "`"), flags=re.M).split()
    )
    quote = quote if len(quote) <= _QUOTED else quote[:_QUOTED].rsplit(" ", 1)[0] + " …"
    where = f"characters {citation.start}–{citation.end}"
    name = f"<{citation.document}>" if citation.source == "web" else f"`{citation.document}`"
    return f"**[{citation.id}]** {name}, {where}\n\n> {_text(quote)}"


def _checks(report: Report) -> str:
    count = Counter(sentence.origin for sentence in report.answer)
    lines = [
        f"- {_many(len(report.answer), 'sentence')} in the answer: {count['model']} written by the model and "
        f"supported by a passage it read, {count['quoted']} quoted, {count['computed']} computed by code that ran.",
        f"- {_many(len(report.dropped), 'sentence')} of the model left out because nothing that was read supports "
        f"{'it' if len(report.dropped) == 1 else 'them'} (listed with reasons in report.json).",
        "- The check compares words, numbers, names and negation with the passages; it does not understand them.",
    ]
    usage = report.usage
    if usage.model_calls:
        lines.append(
            f"- {_many(usage.model_calls, 'model call')} ({usage.input_tokens:,} tokens read, "
            f"{usage.output_tokens:,} written), {_many(usage.tool_calls, 'tool call')}."
        )
    return "\n".join(lines)


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _text(text: str) -> str:
    """Text from documents and data must not become markup of the report; its code spans stay as they are."""
    pieces = re.split(r"(`[^`\n]+`)", text)
    return "".join(piece if place % 2 else _plain(piece) for place, piece in enumerate(pieces))


def _plain(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([*\[\]`]|^[#>+-]|(?<!\w)_|_(?!\w))", r"\\\1", text)
