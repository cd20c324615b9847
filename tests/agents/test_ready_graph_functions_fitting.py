"""Texts cut and packed to a model's window: no prompt ever exceeds it, and nothing is lost on the way."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.ready.fitting import LEAST_ROOM, SPARE, frame
from agents.scripted import ScriptedModel, ScriptedStep
from manta.errors import InvalidInput, NotFound
from manta.messages import ChatMessage, ModelInfo
from tests.agents.step_support import StepBench

PIECES = {"call": "agents.ready.reduction:pieces"}
GROUPS = {"call": "agents.ready.reduction:groups"}
CHECKED = {"call": "agents.ready.reduction:checked"}


class Counting:
    """A model that only counts: its tokens are pieces of words of up to `length` characters, and punctuation."""

    def __init__(self, window: int, length: int = 4) -> None:
        self._window = window
        self._token = re.compile(rf"\w{{1,{length}}}|[^\w\s]|\n+")
        self.counted = 0

    async def info(self) -> ModelInfo:
        return ModelInfo("counting", self._window)

    async def count_tokens(self, messages: Sequence[Any]) -> int:
        self.counted += 1
        return sum(len(self._token.findall(m.content)) + 5 for m in messages)


TEXTS = st.text(alphabet=st.sampled_from("ab cde.\n,é漢"), max_size=1500)
ANSWER = 30


@settings(deadline=None, max_examples=60)
@given(TEXTS, st.integers(0, 400), st.integers(1, 6), st.sampled_from(["", "Question: why?\n"]))
async def test_every_piece_fits_and_nothing_is_lost(text: str, room: int, length: int, before: str):
    window = ANSWER + SPARE + LEAST_ROOM + 40 + room
    model = Counting(window, length)
    around = await frame(model, before, "\nSay it.", ANSWER)
    pieces = await around.pieces(text)
    for piece in pieces:
        prompt = around.fitted([piece]).prompt
        assert await model.count_tokens((ChatMessage("user", prompt),)) + ANSWER + SPARE <= window
        assert prompt == f"{before}{piece}\nSay it."
    assert re.sub(r"\s+", "", "".join(pieces)) == re.sub(r"\s+", "", text)


@settings(deadline=None, max_examples=60)
@given(st.lists(TEXTS.filter(str.strip), min_size=1, max_size=12), st.integers(0, 600), st.integers(1, 6))
async def test_no_group_exceeds_the_window_and_each_round_halves_the_texts(
    texts: list[str], room: int, length: int
):
    window = ANSWER + SPARE + LEAST_ROOM + 40 + room
    model = Counting(window, length)
    around = await frame(model, "Notes:\n", "", ANSWER)
    groups = await around.groups(texts)
    for group in groups:
        prompt = around.fitted(group).prompt
        assert await model.count_tokens((ChatMessage("user", prompt),)) + ANSWER + SPARE <= window
    assert all(len(group) >= 2 for group in groups[:-1])
    assert len(groups) <= math.ceil(len(texts) / 2)
    # In order, and each text whole or its beginning.
    packed = [text for group in groups for text in group]
    assert len(packed) == len(texts)
    for part, whole in zip(packed, texts, strict=True):
        assert whole.startswith(part) or whole.strip().startswith(part)


async def test_a_large_text_is_cut_with_few_counts_and_at_good_places():
    text = "\n\n".join(f"Paragraph {n}. It has a second sentence, and a third one." for n in range(400))
    model = Counting(500)
    around = await frame(model, "", "", ANSWER)
    pieces = await around.pieces(text)
    assert model.counted <= 3 * len(pieces) + 4
    assert all(piece.endswith(".") for piece in pieces)
    sizes = [await around.tokens(piece) for piece in pieces[:-1]]
    assert min(sizes) > around.room * 0.4


async def test_a_prompt_without_room_for_texts_is_refused():
    with pytest.raises(InvalidInput) as caught:
        await frame(Counting(100), "word " * 50, "", ANSWER)
    assert caught.value.code == "no_room"


class Shelf:
    async def names(self, collection: str) -> list[str]:
        if collection != "shelf":
            raise NotFound("no such collection")
        return ["a.md", "b.md"]

    async def text(self, collection: str, document: str) -> str:
        return {"a.md": "A text on apples.", "b.md": "word " * 900}[document]


def bench(tmp_path: Path, *answers: str, **info: Any) -> StepBench:
    return StepBench(
        tmp_path, ScriptedModel([ScriptedStep(text=a) for a in answers], **info), documents=Shelf()
    )


ASK = {"before": "Text:\n", "after": "\n\nWhat is it about?", "answer_tokens": 20}


async def test_documents_and_texts_are_read_in_pieces_with_their_names(tmp_path: Path):
    small = bench(tmp_path)
    for attempt in (1, 2):
        found = await small.run(PIECES, {**ASK, "collection": "shelf", "texts": ["short", " "]}, attempt)
    names = [piece["document"] for piece in found["pieces"]]
    assert names == [None, "a.md", "b.md", "b.md"]
    assert found["pieces"][1] == {
        "document": "a.md",
        "text": "A text on apples.",
        "prompt": "Text:\nA text on apples.\n\nWhat is it about?",
    }
    assert found["documents"] == 4
    assert small.replayed == [False] * 3 + [True] * 3


async def test_an_able_model_is_given_larger_pieces(tmp_path: Path):
    able = bench(tmp_path, abilities=("tools",), context_window=8000)
    found = await able.run(PIECES, {**ASK, "collection": "shelf"})
    assert len(found["pieces"]) == 2
    found = await able.run(PIECES, {**ASK, "collection": "shelf", "piece_tokens": 100}, 2)
    assert len(found["pieces"]) == 10


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, "no_text"),
        ({"texts": ["", " \n"]}, "no_text"),
        ({"collection": "none"}, "not_found"),
        ({"texts": ["word " * 26_000], "piece_tokens": 50}, "too_many_pieces"),
    ],
)
async def test_nothing_to_read_or_too_much_is_refused_before_anything_is_asked(
    tmp_path: Path, given: dict[str, Any], code: str
):
    with pytest.raises(InvalidInput if code != "not_found" else NotFound) as caught:
        await bench(tmp_path).run(PIECES, {**ASK, **given})
    assert caught.value.code == code


async def test_groups_leave_out_what_has_no_words(tmp_path: Path):
    found = await bench(tmp_path).run(GROUPS, {**ASK, "texts": ["one", "", " ", "two", "one"]})
    assert [group["text"] for group in found] == ["one\n\ntwo"]
    assert await bench(tmp_path).run(GROUPS, {**ASK, "texts": []}) == []


TEXT = (
    "The heater is called Warmbox and it heats a room of twenty square metres. "
    "It must stand at least one metre from curtains and other cloth. Its cord is two metres long."
)


@pytest.mark.parametrize(
    ("abilities", "said", "question", "text", "dropped", "unsupported"),
    [
        # A weak model's sentence that the text supports stands, the invented one goes.
        (
            (),
            "The heater is called Warmbox and it heats a room of twenty square metres. It was built by robots.",
            "What is it called?",
            "The heater is called Warmbox and it heats a room of twenty square metres.",
            1,
            0,
        ),
        # Where none stands the text is quoted on the question, or says nothing about it.
        (
            (),
            "Cats are the best heaters of all the world.",
            "How far from curtains must it stand?",
            "It must stand at least one metre from curtains and other cloth.",
            1,
            0,
        ),
        ((), "Cats are the best heaters of all the world.", "Who sang at the opera?", "", 1, 0),
        (
            (),
            "",
            None,
            "The heater is called Warmbox and it heats a room of twenty square metres. "
            "It must stand at least one metre from curtains and other cloth.",
            0,
            0,
        ),
        # An able model keeps its words; what the text does not support is named.
        (
            ("tools",),
            "Robots built the famous heater in the snow.",
            "Who built it?",
            "Robots built the famous heater in the snow.",
            0,
            1,
        ),
        (("tools",), " Nothing. ", "Who built it?", "", 0, 0),
    ],
)
async def test_what_is_said_of_a_text_is_held_against_it(
    tmp_path: Path,
    abilities: tuple[str, ...],
    said: str,
    question: str | None,
    text: str,
    dropped: int,
    unsupported: int,
):
    found = await bench(tmp_path, abilities=abilities).run(
        CHECKED, {"said": said, "text": TEXT, "question": question}
    )
    assert found["text"] == text
    assert (len(found["dropped"]), len(found["unsupported"])) == (dropped, unsupported)


async def test_a_text_that_speaks_of_the_question_is_always_told(tmp_path: Path):
    given = {"said": "Cats.", "text": TEXT, "question": "Who sang at the opera?", "sentences": 1}
    small = bench(tmp_path)
    assert (await small.run(CHECKED, given))["text"] == ""
    told = await small.run(CHECKED, {**given, "speaks": True}, 2)
    assert told["text"] == "The heater is called Warmbox and it heats a room of twenty square metres."


async def test_a_true_sentence_beside_the_question_does_not_stand(tmp_path: Path):
    beside = "The heater is called Warmbox and it heats a room of twenty square metres."
    given = {"said": beside, "text": TEXT, "question": "How far from curtains must it stand?"}
    found = await bench(tmp_path).run(CHECKED, given)
    assert found["text"] == "It must stand at least one metre from curtains and other cloth."
