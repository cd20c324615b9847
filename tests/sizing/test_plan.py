"""What fits, how fast and at what cost: known figures, and what must hold for any load."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.errors import InvalidInput, NotFound
from manta.sizing.catalogue import MODELS
from manta.sizing.devices import GPUS, gpu, interpolated
from manta.sizing.explain import explain
from manta.sizing.formulas import Replica, wait_s
from manta.sizing.plan import Load, Misfit, Plan, Policy, plan

LLAMA_8B, LLAMA_70B = MODELS["llama-3.1-8b"], MODELS["llama-3.1-70b"]
H100 = GPUS["H100"]


def planned(*arguments: object, **named: object) -> Plan:
    found = plan(*arguments, **named)  # type: ignore[arg-type]
    assert isinstance(found, Plan), found
    return found


def test_70b_in_bf16_does_not_fit_one_h100_but_four():
    alone = plan(LLAMA_70B, H100, Load(), Policy(gpus=1))
    assert isinstance(alone, Misfit)
    # 141.1 GB of weights against 72 GB.
    assert alone.missing / 1e9 == pytest.approx(141.1 - 72, abs=2)
    assert "GiB too little on one GPU" in alone.reason
    assert planned(LLAMA_70B, H100, Load(), Policy()).replica.gpus == 4
    assert planned(LLAMA_70B, H100, Load(), Policy(dtype="fp8")).replica.gpus == 2


def test_8b_fits_one_l4_only_with_a_short_context():
    assert isinstance(plan(LLAMA_8B, GPUS["L4"], Load(context=8192), Policy(gpus=1)), Plan)
    assert isinstance(plan(LLAMA_8B, GPUS["L4"], Load(context=131072), Policy(gpus=1)), Misfit)


def test_one_sequence_on_an_a100_is_as_fast_as_was_measured():
    # 75 tokens/s: Llama-3.1-8B in bf16, vLLM 0.23, A100 40 GB, 1,024 tokens in and 128 out.
    step = Replica(LLAMA_8B, GPUS["A100-40GB"], "bf16", "bf16").decode_step_s(1, 1024 + 64)
    assert 1 / step == pytest.approx(75, rel=0.3)


@pytest.mark.parametrize(("name", "tokens_per_s"), [("H100", 5777), ("L40S", 1642)])
def test_throughput_is_near_what_was_submitted_to_mlperf(name: str, tokens_per_s: float):
    # Red Hat, MLPerf Inference 5.1, offline, Llama-3.1-8B in FP8 with vLLM; 778 tokens in and 128 out.
    found = planned(LLAMA_8B, GPUS[name], Load(778, 128), Policy(dtype="fp8"))
    assert found.tokens_per_s == pytest.approx(tokens_per_s, rel=0.3)


def test_cost_is_gpus_times_price_over_requests():
    found = planned(LLAMA_8B, H100, Load(1000, 200, rate=50), Policy(), 2.5)
    assert found.cost_per_1000 == pytest.approx(found.replicas * 2.5 * 1000 / (50 * 3600))
    assert found.cost_per_million_tokens == pytest.approx(found.cost_per_1000 / 1.2)
    assert planned(LLAMA_8B, H100, Load(), Policy()).cost_per_1000 is None


def test_a_limit_on_the_time_of_a_token_makes_batches_smaller():
    free, held = (planned(LLAMA_8B, H100, Load(), Policy(token_ms=limit)) for limit in (0, 15))
    assert held.batch < free.batch
    assert held.most < free.most
    assert held.token_s * 1000 <= 15
    refused = plan(LLAMA_8B, H100, Load(), Policy(token_ms=0.1))
    assert isinstance(refused, Misfit)
    assert "ms even with one request" in refused.reason


def test_a_second_gpu_halves_the_reading_and_adds_all_reduces():
    one, two = (Replica(LLAMA_8B, H100, "bf16", "bf16", gpus) for gpus in (1, 2))
    assert one.reduce_s(1) == 0
    assert two.decode_step_s(1, 1000) - two.reduce_s(1) == pytest.approx(one.decode_step_s(1, 1000) / 2)


def test_what_does_not_split_or_is_not_reckoned_says_why():
    uneven = plan(MODELS["smollm2-135m"], H100, Load(), Policy(gpus=2))
    assert isinstance(uneven, Misfit)
    assert "3 KV heads do not split" in uneven.reason
    narrow = plan(LLAMA_8B, H100, Load(), Policy(dtype="fp32", kv_dtype="fp32"))
    assert isinstance(narrow, Misfit)
    assert "fp32 is not reckoned" in narrow.reason


@pytest.mark.parametrize(
    "make",
    [
        lambda: Load(0),
        lambda: Load(rate=0),
        lambda: Policy(dtype="fp12"),
        lambda: Policy(utilisation=1),
        lambda: Policy(gpus=3),
        lambda: plan(LLAMA_8B, H100, Load(context=200_000), Policy()),
    ],
)
def test_what_makes_no_sense_is_refused(make):
    with pytest.raises(InvalidInput):
        make()


def test_gpus_by_their_other_names():
    assert gpu("h100-sxm") is H100
    assert gpu("A100") is GPUS["A100-80GB"]
    with pytest.raises(NotFound, match="one of: T4") as caught:
        gpu("H900")
    assert caught.value.code == "unknown_gpu"


def test_the_wait_is_pollaczek_khinchines():
    assert wait_s(0.5, 2) == 1
    assert wait_s(0, 2) == 0


def test_a_curve_is_level_outside_and_a_line_between():
    curve = ((1, 2.0), (4, 4.0), (16, 10.0))
    assert [interpolated(curve, rows) for rows in (0.5, 1, 2, 8, 16, 99)] == [2, 2, 3, 7, 10, 10]


def test_each_formula_is_told_with_its_numbers():
    lines = {line.name: line for line in explain(planned(LLAMA_8B, H100, Load(), Policy(), 2.5))}
    assert lines["weights"].numbers == "8,030,261,248 x 16 / 8"
    assert lines["weights"].value == "16.06 GB"
    assert lines["KV of a token"].value == "131,072 bytes"
    assert "cost of 1,000 requests" in lines
    assert all(line.source for line in lines.values() if line.name != "replicas")


LOADS = st.builds(
    Load,
    input_tokens=st.integers(1, 4000),
    output_tokens=st.integers(1, 1000),
    rate=st.floats(0.01, 1000),
)
SHAPES = st.sampled_from([MODELS[name] for name in ("llama-3.1-8b", "qwen2.5-14b", "llama-3.1-70b")])
DEVICES = st.sampled_from(list(GPUS.values()))


@given(SHAPES, DEVICES, LOADS, st.floats(1, 4))
def test_more_memory_never_fits_less(shape, device, load, factor):
    before = plan(shape, device, load, Policy(max_batch=32))
    after = plan(shape, replace(device, memory=device.memory * factor), load, Policy(max_batch=32))
    if isinstance(before, Plan):
        assert isinstance(after, Plan)
        assert after.gpus <= before.gpus


@given(SHAPES, DEVICES, LOADS, st.floats(1, 100), st.sampled_from([0, 1, 2, 4]))
def test_more_load_never_needs_fewer(shape, device, load, factor, gpus):
    policy = Policy(max_batch=32, gpus=gpus)
    before, after = (
        plan(shape, device, each, policy) for each in (load, replace(load, rate=load.rate * factor))
    )
    assert isinstance(before, Plan) == isinstance(after, Plan)
    if isinstance(before, Plan) and isinstance(after, Plan):
        assert after.gpus >= before.gpus
        assert gpus == 0 or after.replicas >= before.replicas


@given(SHAPES, DEVICES, LOADS)
def test_a_plan_keeps_to_its_bounds(shape, device, load):
    policy = Policy(max_batch=32)
    found = plan(shape, device, load, policy)
    if isinstance(found, Plan):
        assert found.utilisation <= policy.utilisation * (1 + 1e-9)
        assert 1 <= found.busy_batch <= found.batch <= policy.max_batch
        held = found.batch * load.tokens * shape.kv_bytes("bf16")
        assert held <= found.replica.kv_room(policy.memory_share, found.batch) or found.batch == 1
