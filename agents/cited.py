"""Sentences with the numbers of their sources, for people to read."""

from collections.abc import Iterable
from typing import Any

from manta.messages import Passage, Sentence


def cited(
    sentences: Iterable[Sentence], passages: Iterable[Passage]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Each sentence with its marks, `[1]`, and the sources in the order of their numbers.

    Sentences whose citations are not among the passages are left out: what no passage supports is not said.
    A source is `{id, document, start, end, text}`; one place of a document has one number.
    """
    known = {passage.id: passage for passage in passages}
    numbered: dict[tuple[str, int, int], dict[str, Any]] = {}
    told = []
    for sentence in sentences:
        marks = [_number(known[key], numbered) for key in sentence.citations if key in known]
        if marks:
            told.append(f"{sentence.text} {''.join(f'[{mark}]' for mark in dict.fromkeys(marks))}")
    return told, list(numbered.values())


def _number(passage: Passage, numbered: dict[tuple[str, int, int], dict[str, Any]]) -> str:
    place = (passage.document, passage.start, passage.end)
    source = {"document": passage.document, "start": passage.start, "end": passage.end, "text": passage.text}
    numbered.setdefault(place, {"id": str(len(numbered) + 1), **source})
    return str(numbered[place]["id"])
