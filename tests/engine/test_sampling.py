"""Every sampling parameter, against transformers' own processors; what they do to whole generations."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from manta.errors import InvalidInput
from serve_app.engine.bundle import ModelBundle
from serve_app.engine.core import EngineCore
from serve_app.engine.engine import EngineConfig, GenerationRequest, SamplingParams
from serve_app.engine.params import check_params
from serve_app.engine.penalties import Penalties
from serve_app.engine.sampler import Sampler, distribution
from tests.engine.support import QUESTIONS, Collector

CPU = torch.device("cpu")
CONFIG = EngineConfig(dtype="float32", max_batch=4, kv_tokens=2048, prefill_chunk=64, kv_page=32)
PROMPT = tuple(range(5, 25))
VOCABULARY = 50
LOGITS = st.integers(0, 2**31).map(
    lambda seed: 4 * torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed))
)


def run(bundle: ModelBundle, *requests: GenerationRequest, config: EngineConfig = CONFIG) -> Collector:
    core, heard = EngineCore(bundle, config), Collector()
    for each in requests:
        core.check(each)
        core.add(each, heard)
    while core.busy:
        core.step(0.0)
    return heard


def tokens(bundle: ModelBundle, params: SamplingParams) -> list[int]:
    return run(bundle, GenerationRequest("a", PROMPT, params)).tokens("a")


@settings(deadline=None)
@given(
    LOGITS,
    st.sampled_from((0.3, 1.0, 1.7)),
    st.sampled_from((0, 1, 7, 49, 400)),
    st.sampled_from((1.0, 0.95, 0.5, 0.01)),
    st.sampled_from((0.0, 0.02, 0.3, 1.0)),
)
def test_the_distribution_is_that_of_transformers(logits, temperature, top_k, top_p, min_p) -> None:
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    weights, ids = distribution(logits, params)
    ours = torch.zeros(VOCABULARY).scatter(0, torch.arange(VOCABULARY) if ids is None else ids, weights)
    theirs = TemperatureLogitsWarper(temperature)(None, logits[None].clone())
    if top_k:
        theirs = TopKLogitsWarper(top_k)(None, theirs)
    if top_p < 1:
        theirs = TopPLogitsWarper(top_p)(None, theirs)
    if min_p:
        theirs = MinPLogitsWarper(min_p)(None, theirs)
    torch.testing.assert_close(ours / ours.sum(), theirs[0].softmax(-1), atol=1e-6, rtol=1e-5)


@settings(deadline=None)
@given(
    LOGITS,
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=8),
    st.lists(st.integers(0, VOCABULARY - 1), max_size=8),
    st.sampled_from((0.5, 1.0, 1.3)),
    # Some of transformers' versions refuse a bias of token 0.
    st.dictionaries(st.integers(1, VOCABULARY - 1), st.sampled_from((-100.0, -1.5, 3.0)), max_size=4),
)
def test_bias_and_repetition_are_those_of_transformers(logits, prompt, answer, repetition, bias) -> None:
    named = {str(token): amount for token, amount in bias.items()}
    params = SamplingParams(repetition_penalty=repetition, logit_bias=named)
    penalties = Penalties(params, tuple(prompt), VOCABULARY, CPU)
    for token in answer:
        penalties.saw(token)
    seen = torch.tensor([prompt + answer])
    theirs = logits[None].clone()
    if bias:
        theirs = SequenceBiasLogitsProcessor([[[token], amount] for token, amount in bias.items()])(
            seen, theirs
        )
    theirs = RepetitionPenaltyLogitsProcessor(repetition)(seen, theirs)
    before = logits.clone()
    torch.testing.assert_close(penalties.apply(logits), theirs[0])
    assert torch.equal(logits, before)


@given(LOGITS, st.lists(st.integers(0, VOCABULARY - 1), max_size=12), st.floats(-2, 2), st.floats(-2, 2))
def test_presence_and_frequency_follow_openais_formula(logits, answer, presence, frequency) -> None:
    params = SamplingParams(presence_penalty=presence, frequency_penalty=frequency)
    # Tokens of the prompt do not count.
    penalties = Penalties(params, (1, 2, 3), VOCABULARY, CPU)
    for token in answer:
        penalties.saw(token)
    changed = penalties.apply(logits)
    for token in range(VOCABULARY):
        count = answer.count(token)
        wanted = float(logits[token]) - count * frequency - (presence if count else 0)
        assert math.isclose(float(changed[token]), wanted, abs_tol=1e-4)


def test_a_greedy_generation_with_repetition_penalty_is_that_of_transformers(
    small: ModelBundle, small_folder: Path
) -> None:
    from transformers import Qwen3ForCausalLM

    model = Qwen3ForCausalLM.from_pretrained(small_folder).eval()
    ids = torch.tensor([PROMPT])
    with torch.inference_mode():
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=24,
            do_sample=False,
            repetition_penalty=1.4,
            pad_token_id=0,
            eos_token_id=None,
        )
    params = SamplingParams(max_tokens=24, repetition_penalty=1.4, ignore_eos=True)
    assert tokens(small, params) == made[0, len(PROMPT) :].tolist()


def test_frequency_penalty_and_bias_change_a_generation(small: ModelBundle) -> None:
    plain = SamplingParams(max_tokens=24, ignore_eos=True)
    first = tokens(small, plain)
    assert len(set(tokens(small, replace(plain, frequency_penalty=100.0)))) == 24
    assert first[0] not in tokens(small, replace(plain, logit_bias={str(first[0]): -100.0}))
    assert tokens(small, replace(plain, logit_bias={"77": 100.0})) == [77] * 24


def test_logprobs_are_of_the_raw_logits(small: ModelBundle, small_folder: Path) -> None:
    from transformers import Qwen3ForCausalLM

    params = SamplingParams(
        max_tokens=6, temperature=2.0, top_k=5, seed=4, logprobs=3, frequency_penalty=1.0, ignore_eos=True
    )
    heard = run(small, GenerationRequest("a", PROMPT, params))
    told = [entry for output in heard.outputs["a"] for entry in output.logprobs]
    made = heard.tokens("a")
    assert [entry.token for entry in told] == made
    model = Qwen3ForCausalLM.from_pretrained(small_folder).eval()
    with torch.inference_mode():
        rows = model(torch.tensor([[*PROMPT, *made]])).logits[0].log_softmax(-1)
    for index, entry in enumerate(told):
        row = rows[len(PROMPT) - 1 + index]
        assert entry.logprob == pytest.approx(float(row[entry.token]), abs=1e-3)
        values, ids = row.topk(3)
        assert [alternative[1] for alternative in entry.top] == ids.tolist()
        assert [alternative[2] for alternative in entry.top] == pytest.approx(values.tolist(), abs=1e-3)
        assert all(text == small.tokenizer.piece(id) for text, id, _ in entry.top)


def test_logprobs_do_not_change_the_choice_and_cost_others_nothing(small: ModelBundle) -> None:
    plain = SamplingParams(max_tokens=8, ignore_eos=True)
    asking = replace(plain, logprobs=0)
    heard = run(small, GenerationRequest("a", PROMPT, plain), GenerationRequest("b", PROMPT, asking))
    assert heard.tokens("a") == heard.tokens("b")
    assert all(not output.logprobs for output in heard.outputs["a"])
    assert all(len(output.logprobs) == 1 and not output.logprobs[0].top for output in heard.outputs["b"])
    assert Sampler(plain, PROMPT, 400, CPU).plain
    assert not Sampler(asking, PROMPT, 400, CPU).plain


def test_an_ending_token_has_no_logprob(small: ModelBundle) -> None:
    free = run(small, GenerationRequest("a", PROMPT, SamplingParams(max_tokens=8, ignore_eos=True))).tokens(
        "a"
    )
    last = free[4]
    params = SamplingParams(max_tokens=8, logprobs=1, ignore_eos=True, stop_token_ids=(last,))
    heard = run(small, GenerationRequest("a", PROMPT, params))
    made = heard.tokens("a")
    assert made == free[: free.index(last) + 1]
    assert heard.last("a").finish_reason == "stop"
    assert not heard.last("a").logprobs
    assert heard.text("a") == small.tokenizer.decode(made[:-1])


def test_the_end_token_ends_unless_it_is_ignored(small: ModelBundle) -> None:
    ending = SamplingParams(max_tokens=6, logit_bias={"2": 100.0})
    assert tokens(small, ending) == [2]
    assert tokens(small, replace(ending, ignore_eos=True)) == [2] * 6


@pytest.mark.parametrize("seed", [0, 7, -3, 2**63 + 5, 2**70])
def test_any_seed_repeats(small: ModelBundle, seed: int) -> None:
    params = SamplingParams(max_tokens=12, temperature=1.0, seed=seed, ignore_eos=True)
    assert tokens(small, params) == tokens(small, params)
    assert tokens(small, params) != tokens(small, replace(params, seed=seed + 1))


def test_without_a_seed_no_two_are_alike(small: ModelBundle) -> None:
    params = SamplingParams(max_tokens=16, temperature=1.0, ignore_eos=True)
    assert tokens(small, params) != tokens(small, params)


@pytest.mark.parametrize(
    "more",
    [
        {"frequency_penalty": 0.7, "presence_penalty": 0.3},
        {"repetition_penalty": 1.3, "logit_bias": {"9": 2.0}},
        {"temperature": 1.0, "min_p": 0.05, "top_k": 40, "seed": 5, "frequency_penalty": 0.5},
    ],
)
def test_counts_and_generators_survive_preemption(small: ModelBundle, more: dict) -> None:
    prompts = [tuple(small.tokenizer.encode(question))[:40] for question in QUESTIONS[:4]]
    params = SamplingParams(max_tokens=50, ignore_eos=True, **more)
    requests = [
        GenerationRequest(str(index), prompt, params, priority=index % 2)
        for index, prompt in enumerate(prompts)
    ]
    roomy = run(small, *requests, config=replace(CONFIG, max_batch=1))
    core, tight = EngineCore(small, replace(CONFIG, kv_tokens=160, kv_page=8)), Collector()
    for each in requests:
        core.add(each, tight)
    while core.busy:
        core.step(0.0)
    assert core.stats().preempted > 0
    assert [tight.tokens(each.id) for each in requests] == [roomy.tokens(each.id) for each in requests]


def test_stop_strings_count_only_up_to_a_mark(small: ModelBundle) -> None:
    free = run(small, GenerationRequest("a", PROMPT, SamplingParams(max_tokens=20, ignore_eos=True)))
    text = free.text("a")
    stop, mark = text[9:12], text[4:7]
    params = SamplingParams(max_tokens=20, ignore_eos=True, stop=(stop,))
    assert run(small, GenerationRequest("a", PROMPT, params)).text("a") == text[: text.index(stop)]
    marked = run(small, GenerationRequest("a", PROMPT, replace(params, stop_until=mark)))
    assert marked.text("a") == (text if text.index(mark) < text.index(stop) else text[: text.index(stop)])


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"top_k": -1},
        {"repetition_penalty": 0.0},
        {"presence_penalty": math.inf},
        {"logprobs": -1},
        {"logit_bias": {"400": 1.0}},
        {"logit_bias": {"x": 1.0}},
        {"logit_bias": {"3": math.nan}},
        {"stop_token_ids": (400,)},
        {"stop_token_ids": (-1,)},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        check_params(SamplingParams(**wrong), 400)
