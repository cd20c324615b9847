"""In bfloat16, fed the float32 reference's own tokens, our first choice agrees with it as often as transformers'."""

import copy
from pathlib import Path

import pytest
import torch

from serve_app.engine.batch import Segment
from serve_app.engine.engine import Engine, EngineConfig
from serve_app.engine.kv_cache import KvCache
from serve_app.engine.loader import native_bfloat16
from serve_app.engine.model import LanguageModel
from tests.engine.support import Answers

STRIDE = 256
EMULATED_PROMPTS, EMULATED_TOKENS = 4, 24
"""Without bfloat16 in the processor all 50 prompts and their whole answers take minutes; these are of each form."""


def forced_choices(
    model: LanguageModel, prompts: list[tuple[int, ...]], answers: list[list[int]]
) -> list[list[int]]:
    """Our first choice at each position of the answers: the prompts at once, then all rows token by token."""
    cache = KvCache(model.spec, len(prompts), STRIDE, model.dtype, model.device)
    segments = {row: Segment(prompt, (row,), 0, 1) for row, prompt in enumerate(prompts)}
    choices: list[list[int]] = [[] for _ in prompts]
    for step in range(max(len(answer) for answer in answers)):
        best = model.forward(list(segments.values()), cache).argmax(-1).tolist()
        for row, token in zip(segments, best, strict=True):
            choices[row].append(token)
        segments = {
            row: Segment((answers[row][step],), segment.pages, segment.end, 1)
            for row, segment in segments.items()
            if step + 1 < len(answers[row])
        }
    return choices


def reference_choices(
    model: torch.nn.Module, prompts: list[tuple[int, ...]], answers: list[list[int]]
) -> list[list[int]]:
    choices = []
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([[*prompt, *answer[:-1]]])
        with torch.inference_mode():
            logits = model(input_ids=ids, logits_to_keep=len(answer)).logits
        choices.append(logits[0].argmax(-1).tolist())
    return choices


def agreement(choices: list[list[int]], answers: list[list[int]]) -> int:
    return sum(
        a == b for row, answer in zip(choices, answers, strict=True) for a, b in zip(row, answer, strict=True)
    )


def test_small_model_in_bfloat16_is_close(small_folder: Path, one_thread: None) -> None:
    """Runs everywhere, emulated if need be: most first choices stay the same."""
    prompts = [tuple(range(5 + row, 25 + row)) for row in range(8)]
    exact = Engine.load(small_folder, EngineConfig(dtype="float32")).bundle.model
    rough = Engine.load(small_folder, EngineConfig(dtype="bfloat16")).bundle.model
    assert rough.dtype == torch.bfloat16
    answers = forced_choices(exact, prompts, [[7] * 12 for _ in prompts])
    forced = [[7] * 12 for _ in prompts]
    assert forced_choices(exact, prompts, forced) == answers
    assert agreement(forced_choices(rough, prompts, forced), answers) >= 0.85 * 12 * 8


@pytest.mark.timeout(900)
def test_smollm2_agrees_at_least_as_often_as_transformers(
    smol_path: Path,
    smol_reference: torch.nn.Module,
    smol_answers: Answers,
    smol_prompts: list[tuple[int, ...]],
) -> None:
    native = native_bfloat16(torch.device("cpu"))
    prompts = (
        smol_prompts if native else smol_prompts[:: len(smol_prompts) // EMULATED_PROMPTS][:EMULATED_PROMPTS]
    )
    answers = smol_answers.to(prompts)
    if not native:
        answers = [answer[:EMULATED_TOKENS] for answer in answers]
    ours = Engine.load(smol_path, EngineConfig(dtype="bfloat16")).bundle.model
    theirs = copy.deepcopy(smol_reference).to(torch.bfloat16)
    total = sum(len(answer) for answer in answers)
    our_count = agreement(forced_choices(ours, prompts, answers), answers)
    their_count = agreement(reference_choices(theirs, prompts, answers), answers)
    print(
        f"{len(prompts)} prompts, first choices that agree, of {total}: ours {our_count}, theirs {their_count}"
    )
    assert our_count >= their_count
