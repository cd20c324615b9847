"""Splitting: exact offsets for any text, sensible passages for real ones."""

import inspect
import json.decoder
import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.passages import CODE_HIGH, HIGH, split, weight

PIECES = st.sampled_from(
    [
        "word ",
        "Ends. ",
        "e.g. ",
        "\n",
        "\n\n",
        "\r\n",
        "# Title\n",
        "Title\n=====\n",
        "```\n",
        "~~~\n",
        "    code\n",
        "note::\n",
        ".. code-block:: py\n",
        ">>> f()\n",
        "- item\n",
        "1. item\n",
        "。",
        "日本語",
        "\u2028",
        "\x0c",
        "x" * 1500,
    ]
)
TEXTS = st.one_of(st.text(max_size=400), st.lists(PIECES, max_size=400).map("".join))


@given(TEXTS)
def test_passages_cover_every_character_but_white_space_exactly_once(text: str):
    spans = split(text)
    at = 0
    for span in spans:
        assert not text[at : span.start].strip()
        piece = text[span.start : span.end]
        assert piece
        assert piece == piece.strip()
        at = span.end
    assert not text[at:].strip()


@given(TEXTS)
def test_no_passage_is_longer_than_code_may_be(text: str):
    assert all(weight(text[s.start : s.end]) <= CODE_HIGH for s in split(text))


def _texts(text: str) -> list[str]:
    return [text[s.start : s.end] for s in split(text)]


def _sentences(count: int, words: int = 10) -> str:
    return " ".join(f"Sentence {n} " + "has some words " * ((words - 2) // 3) + "here." for n in range(count))


def test_a_long_paragraph_is_cut_between_sentences_into_even_pieces():
    text = _sentences(50)
    pieces = _texts(text)
    assert len(pieces) == -(-weight(text) // HIGH)
    assert all(piece.endswith("here.") for piece in pieces)
    assert max(map(weight, pieces)) - min(map(weight, pieces)) <= 25


def test_small_paragraphs_join_until_a_passage_is_full():
    text = "\n\n".join(_sentences(3) for _ in range(12))
    sizes = [weight(piece) for piece in _texts(text)]
    assert all(80 <= size <= HIGH for size in sizes[:-1])
    assert len(sizes) < 12


def test_a_heading_begins_a_passage_and_is_never_left_alone():
    text = f"# First\n\n{_sentences(9)}\n\n## Second\n\n{_sentences(9)}\n\nThird\n-----\n\n{_sentences(9)}"
    assert [piece.split("\n")[0] for piece in _texts(text)] == ["# First", "## Second", "Third"]


@pytest.mark.parametrize(("opening", "closing"), [("```python", "```"), ("~~~~", "~~~~")])
def test_a_fenced_block_stays_whole_with_its_empty_lines(opening: str, closing: str):
    code = "\n\n".join(f"value_{n} = compute(value_{n})" for n in range(20))
    block = f"{opening}\n# not a heading\n{code}\n{closing}"
    text = f"{_sentences(12)}\n\n{block}\n\n{_sentences(12)}"
    assert sum(block in piece for piece in _texts(text)) == 1


def test_a_docstring_example_stays_with_its_lines():
    example = ".. code-block:: python\n\n    import ray\n\n    ray.init()\n    print(1)"
    text = f"{_sentences(14)}\n\n{example}\n\nAfterwards. {_sentences(14)}"
    assert sum(example in piece for piece in _texts(text)) == 1


def test_a_fence_that_is_never_closed_does_not_swallow_the_rest():
    text = f"```\n\n{_sentences(40)}"
    assert len(split(text)) > 1


@pytest.mark.parametrize(
    "sign", ["e.g. this", "Dr. Who", "J. Smith", "Fig. 3", "version 2.5 of it", "1. the item"]
)
def test_abbreviations_do_not_end_a_sentence(sign: str):
    text = " ".join(f"Here we say {sign} number {n} and nothing else." for n in range(60))
    assert all(piece.startswith("Here") and piece.endswith("else.") for piece in _texts(text))


def test_text_without_spaces_is_cut_at_its_own_full_stops():
    text = "日本の首都は東京です。" * 400
    pieces = _texts(text)
    assert len(pieces) > 1
    assert all(piece.endswith("。") for piece in pieces)


@pytest.mark.parametrize("module", [json.decoder, logging, re])
def test_docstrings_of_real_modules_are_cut_at_ends_of_paragraphs_or_sentences(module: object):
    docs = [inspect.getdoc(member) or "" for _, member in inspect.getmembers(module, callable)]
    text = "\n\n".join([inspect.getdoc(module) or "", *docs])
    spans = split(text)
    assert len(spans) > 3
    for span in spans[:-1]:
        assert text[span.end :].startswith("\n") or text[span.end - 1] in ".!?)\"'"
