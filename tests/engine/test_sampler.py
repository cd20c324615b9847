"""Sampling draws from the distribution its parameters describe."""

from collections import Counter

import pytest
import torch

from serve_app.engine.sampler import Choice, Sampler, choose_token, likeliest
from serve_app.engine.types import SamplingParams

CPU = torch.device("cpu")
LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0])


def draws(params: SamplingParams, logits: torch.Tensor = LOGITS, count: int = 3000) -> Counter[int]:
    sampler = Sampler(params, (0,), len(logits), CPU)
    return Counter(sampler.choose(logits).token for _ in range(count))


def test_greedy_takes_the_largest() -> None:
    assert draws(SamplingParams(), count=3) == {0: 3}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_temperature(temperature: float) -> None:
    counts = draws(SamplingParams(temperature=temperature, seed=1))
    wanted = (LOGITS / temperature).softmax(-1)
    assert all(abs(counts[token] / 3000 - float(wanted[token])) < 0.04 for token in range(5))


def test_top_k_and_top_p_bound_the_choice() -> None:
    assert set(draws(SamplingParams(temperature=3.0, top_k=2, seed=1))) == {0, 1}
    # The first two tokens hold 0.87 of the mass.
    assert set(draws(SamplingParams(temperature=1.0, top_p=0.85, seed=1))) == {0, 1}
    assert set(draws(SamplingParams(temperature=1.0, top_p=0.89, seed=1))) == {0, 1, 2}
    assert set(draws(SamplingParams(temperature=1.0, top_p=1e-6, seed=1))) == {0}


def test_a_nucleus_wider_than_the_first_try(one_thread: None) -> None:
    flat = torch.zeros(5000)
    seen = draws(SamplingParams(temperature=1.0, top_p=0.9, seed=1), flat, count=3000)
    assert len(seen) > 2000


def test_repetition_penalty_counts_prompt_and_output() -> None:
    sampler = Sampler(SamplingParams(repetition_penalty=3.0), (0,), 5, CPU)
    logits = torch.tensor([2.0, 1.0, 0.9, -1.0, -2.0])
    assert [sampler.choose(logits).token for _ in range(3)] == [1, 2, 0]


def test_one_bad_row_leaves_the_others() -> None:
    rows = torch.stack((LOGITS, torch.full((5,), float("nan")), LOGITS.flip(0)))
    samplers = [Sampler(SamplingParams(temperature=t), (0,), 5, CPU) for t in (0.0, 1.0, 0.0)]
    first, second, third = map(choose_token, samplers, rows, likeliest(rows))
    assert (first, third) == (Choice(0), Choice(4))
    assert isinstance(second, Exception)
