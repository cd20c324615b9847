"""Guesses from what a request repeats: right ones spare steps, and no guess changes an answer."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from manta.sampling import TokenLogprob
from serve_app.engine import core
from serve_app.engine.batch import Segment
from serve_app.engine.engine import Engine, EngineConfig, SamplingParams
from serve_app.engine.forms import form as forms
from serve_app.engine.lookup import GRAM, LONGEST_PAUSE, Lookup
from serve_app.engine.native.build import library
from serve_app.engine.rows import wanted_rows
from serve_app.engine.scheduler import GUESSING_ROWS, Scheduler
from serve_app.engine.types import EngineStats
from tests.engine.support import Staggered, generate, needs

compiled_only = pytest.mark.skipif(library() is None, reason="no compiler, or no AVX2")
CONFIG = EngineConfig(dtype="float32", max_batch=8, kv_tokens=1024, kv_page=16)
PHRASE = tuple(range(20, 60))


def test_what_followed_before_is_guessed_to_follow_again() -> None:
    lookup = Lookup((1, 2, 3, 4, 5, 6, 7, 1, 2), 3)
    assert lookup.guess() == ()
    lookup.add((3,))
    assert lookup.guess() == (4, 5, 6)
    lookup.add((4, 9))
    assert lookup.guess() == ()


def test_the_latest_place_counts_and_a_circle_goes_on() -> None:
    assert Lookup((1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3), 4).guess() == (5, 1, 2, 3)
    assert Lookup((1, 2, 3, 4, 1, 2, 3), 6).guess() == (4, 1, 2, 3, 4, 1)
    assert Lookup((7, 7, 7, 7), 4).guess() == (7, 7, 7, 7)


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 6))
def test_a_guess_is_what_stands_behind_an_equal_place(tokens: list[int], most: int) -> None:
    guess = Lookup(tokens, most).guess()
    if guess:
        assert len(guess) == most
        end = tuple(tokens[-GRAM:])
        places = [at for at in range(len(tokens) - GRAM) if tuple(tokens[at : at + GRAM]) == end]
        at = places[-1] + GRAM
        assert guess == (*tokens, *guess)[at : at + most]


def test_who_guesses_wrong_pauses_for_longer_each_time() -> None:
    lookup = Lookup((5,) * 9, 2)
    pauses = []
    for _ in range(8):
        assert lookup.guess()
        lookup.heard(2, 0)
        waited = 0
        while not lookup.guess():
            lookup.add((5,))
            waited += 1
        pauses.append(waited)
    assert pauses == [1, 2, 4, 8, 16, 32, 32, 32]
    assert max(pauses) == LONGEST_PAUSE
    lookup.heard(2, 1)
    assert lookup.guess()


def running(*prompts: int) -> Scheduler:
    scheduler = Scheduler(8, 512, 256, 64, page=16)
    for number, length in enumerate(prompts):
        scheduler.add(str(number), range(length), 20)
    plan = scheduler.plan()
    scheduler.advance(plan)
    for id in plan.ids:
        scheduler.append(id, 7)
    return scheduler


def test_guesses_share_the_rows_that_cost_little() -> None:
    for requests, each in ((1, 5), (2, 2), (3, 1), (4, 0), (7, 0)):
        scheduler = running(*[5] * requests)
        for id in scheduler.running:
            scheduler.guess(id, (1, 2, 3, 4, 5, 6, 7))
        segments = scheduler.plan().segments
        assert [len(segment.guessed) for segment in segments] == [each] * requests
        assert sum(len(segment.tokens) for segment in segments) <= max(GUESSING_ROWS, requests)


def test_no_guess_beside_a_prompt_nor_where_no_place_is_held() -> None:
    scheduler = running(14)
    scheduler.guess("0", (1, 2, 3))
    assert scheduler.plan().segments[0].tokens == (7, 1)
    scheduler.add("late", range(30), 20)
    assert [segment.guessed for segment in scheduler.plan().segments] == [(), ()]


def test_what_was_right_need_not_be_computed_again_and_what_was_not_is_forgotten() -> None:
    scheduler = running(5)
    scheduler.guess("0", (1, 2, 3))
    plan = scheduler.plan()
    scheduler.advance(plan)
    scheduler.append("0", 1)
    scheduler.was_right("0", 1)
    scheduler.append("0", 9)
    scheduler.guess("0", ())
    (segment,) = scheduler.plan().segments
    assert (segment.tokens, segment.position) == ((9,), 7)


def test_the_rows_behind_each_guessed_token_are_asked_for() -> None:
    segments = [Segment((1, 2, 3), (0,), 0, 3), Segment((4, 5), (1,), 0, 0), Segment((6, 7), (2,), 0, 1)]
    assert wanted_rows(segments, range(3), torch.device("cpu")).tolist() == [0, 1, 2, 6]
    assert wanted_rows(segments, (2, 1, 0), torch.device("cpu")).tolist() == [4, 5, 6, 1]


FORM = forms.regex("(alpha beta gamma|[a-f ]{9}){3}")
PARAMS = {
    "greedy": SamplingParams(max_tokens=60, ignore_eos=True),
    "drawn": SamplingParams(max_tokens=60, ignore_eos=True, temperature=0.7, top_p=0.9, seed=5),
    "penalised": SamplingParams(max_tokens=60, ignore_eos=True, repetition_penalty=1.1, logprobs=2),
    "stopped": SamplingParams(max_tokens=60, ignore_eos=True, stop_token_ids=(33, 44, 55), stop=("b", "e")),
}
FORMED = SamplingParams(
    max_tokens=60, form=forms.regex("(alpha beta gamma|[a-f ]{9}){3}"), temperature=1.0, seed=2
)
CASES = [
    *(pytest.param(params, id=name) for name, params in PARAMS.items()),
    pytest.param(FORMED, id="formed", marks=needs("llguidance")),
]


class Knowing(Lookup):
    """Guesses what is going to be said, often with a mistake: at the beginning of the guess, or at its end."""

    answers: ClassVar[dict[tuple[int, ...], list[int]]] = {}

    def __init__(self, tokens: Iterable[int], most: int) -> None:
        super().__init__((), 0)
        self._answer = self.answers[tuple(tokens)]
        self._said = 0

    def add(self, tokens: Iterable[int]) -> None:
        self._said += len(tuple(tokens))

    def guess(self) -> tuple[int, ...]:
        guess = self._answer[self._said : self._said + 5]
        for at, often in ((0, 7), (-1, 3)):
            if guess and self._said % often == 0:
                guess[at] = (guess[at] + 1) % 400
        return tuple(guess)


@compiled_only
@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("params", CASES)
def test_answers_are_the_same_with_and_without(
    small_folder: Path, params: SamplingParams, quantize: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [tuple(range(5 + row, 30)) + PHRASE[row:] for row in range(3)]
    config = replace(CONFIG, quantize=quantize, dtype="float32" if quantize == "none" else "auto")

    def answers(speculate: int) -> tuple[list[list[int]], list[TokenLogprob], EngineStats]:
        engine = Engine.load(small_folder, replace(config, speculate=speculate))
        together = Staggered(engine, prompts, params, every=2).run()
        alone = [generate(engine, prompt, params) for prompt in prompts]
        # What was said is kept, and copied for who goes on from it.
        further = SamplingParams(max_tokens=9, ignore_eos=True)
        more = [
            generate(engine, (*prompt, *said), further)
            for prompt, said in zip(prompts, together, strict=True)
        ]
        scores = [score for each in alone for output in each.outputs["only"] for score in output.logprobs]
        stats = engine.stats()
        engine.stop()
        assert [each.tokens("only") for each in alone] == together
        return [*together, *(each.tokens("only") for each in more)], scores, stats

    made, scores, plain = answers(0)
    assert plain.guessed == 0
    answered = dict(zip(prompts, made, strict=False))
    further = {(*prompt, *said): made[3 + n] for n, (prompt, said) in enumerate(answered.items())}
    monkeypatch.setattr(Knowing, "answers", answered | further)
    monkeypatch.setattr(core, "Lookup", Knowing)
    again, scored, guessing = answers(5)
    assert (again, scored) == (made, scores)
    assert 0 < guessing.guessed_right < guessing.guessed
    assert guessing.steps < plain.steps
    assert guessing.decode_tokens == plain.decode_tokens


@compiled_only
def test_a_text_that_repeats_takes_fewer_steps(small_folder: Path) -> None:
    engine = Engine.load(small_folder, CONFIG)
    engine.start()
    params = SamplingParams(max_tokens=200, ignore_eos=True, logit_bias={"30": 100.0})
    made = generate(engine, PHRASE, params)
    stats = engine.stats()
    engine.stop()
    assert made.tokens("only") == [30] * 200
    assert stats.decode_tokens == 199
    # The last token of the last guess is the answer's last: nobody asks what follows it.
    assert stats.guessed - 5 <= stats.guessed_right <= stats.guessed
    assert stats.steps < 45
