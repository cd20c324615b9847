"""Narrow weights: each product is near the exact one, rows do not see each other, and answers stay close."""

from pathlib import Path

import pytest
import torch

from manta.errors import InvalidConfig
from serve_app.engine.bundle import load_bundle
from serve_app.engine.engine import Engine, EngineConfig
from serve_app.engine.linear import Float16Linear, Int4Linear, Int8Linear, LinearKind
from serve_app.engine.native.build import library
from tests.engine.support import Answers
from tests.engine.test_bfloat16 import agreement, forced_choices

FLOAT32 = EngineConfig(dtype="float32")
PROMPTS = 10
NEW_TOKENS = 24
LEAST = {"int8": 0.80 if library() is None else 0.92, "mixed": 0.86}
"""First choices that must agree with float32 when fed its tokens: what was measured (int8 0.84, compiled 0.96,
mixed 0.90), less a margin."""
LEAST_SMALL = {"int8": 0.85, "mixed": 0.85, "int4": 0.3}
"""Random weights are all noise, which 4 bits keep badly; by chance 1 of 400 would agree."""


@pytest.mark.parametrize(("kind", "error"), [(Float16Linear, 1e-3), (Int8Linear, 0.03), (Int4Linear, 0.12)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.usefixtures("one_thread")
def test_products_are_near(kind: LinearKind, error: float, bias: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(64, 96, generator=generator)
    shift = torch.randn(64, generator=generator) if bias else None
    product = kind(weight, shift)
    for count in (1, 5):
        rows = torch.randn(count, 96, generator=generator)
        exact = torch.nn.functional.linear(rows, weight, shift)
        assert float((product(rows) - exact).norm() / exact.norm()) < error


def test_a_loud_row_does_not_drown_a_quiet_one() -> None:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(64, 96, generator=generator)
    product = Int8Linear(weight, None)
    quiet = torch.randn(1, 96, generator=generator)
    beside = product(torch.cat((quiet, 1e4 * torch.randn(3, 96, generator=generator))))[:1]
    exact = quiet @ weight.T
    assert float((beside - exact).norm() / exact.norm()) < 0.03


@pytest.mark.parametrize("quantize", ["int8", "int4", "mixed"])
def test_small_model_runs_with_each_kind(small_folder: Path, quantize: str, one_thread: None) -> None:
    exact = load_bundle(small_folder, FLOAT32).model
    rough = load_bundle(small_folder, EngineConfig(quantize=quantize)).model
    prompts = [tuple(range(5 + row, 25 + row)) for row in range(8)]
    forced = [[7] * 12 for _ in prompts]
    wanted, found = forced_choices(exact, prompts, forced), forced_choices(rough, prompts, forced)
    assert agreement(found, wanted) >= LEAST_SMALL[quantize] * 12 * 8


@pytest.mark.timeout(600)
@pytest.mark.parametrize("quantize", ["int8", "mixed"])
def test_smollm2_stays_close(
    smol_path: Path, smol_answers: Answers, smol_prompts: list[tuple[int, ...]], quantize: str
) -> None:
    prompts = smol_prompts[:: len(smol_prompts) // PROMPTS][:PROMPTS]
    answers = [answer[:NEW_TOKENS] for answer in smol_answers.to(prompts)]
    total = sum(len(answer) for answer in answers)
    rough = load_bundle(smol_path, EngineConfig(quantize=quantize)).model
    found = agreement(forced_choices(rough, prompts, answers), answers)
    print(f"{quantize}: {found} of {total} first choices agree with float32")
    assert found >= LEAST[quantize] * total


def test_what_cannot_be_quantised_is_refused(small_folder: Path) -> None:
    with pytest.raises(InvalidConfig, match="cannot be quantised to int8 with dtype bfloat16"):
        Engine.load(small_folder, EngineConfig(dtype="bfloat16", quantize="int8"))
    with pytest.raises(InvalidConfig, match="unknown quantize 'int2'"):
        Engine.load(small_folder, EngineConfig(quantize="int2"))
