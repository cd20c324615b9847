"""How many replicas a load wants: the pure decision, and the policy as Serve's controller calls it."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve._private.autoscaling_state import _resolve_policy_callable
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingContext

from manta.model_settings import ReplicaSettings
from serve_app.models.deployment import _model_options
from serve_app.models.scaling import Load, Targets, replicas_wanted
from serve_app.models.scaling_policy import REQUESTS, TOKENS, LoadPolicy, load_of

BY_REQUESTS = Targets(ongoing=8)
counts = st.integers(0, 50)
amounts = st.floats(0, 1000)
loads = st.builds(
    Load,
    replicas=counts,
    wanted=counts,
    running=amounts,
    queued=amounts,
    tokens=st.none() | st.floats(0, 1e6),
)
targets = st.builds(Targets, ongoing=st.floats(0.5, 100), tokens=st.just(0.0) | st.floats(100, 1e5))


@pytest.mark.parametrize(
    ("load", "wanted"),
    [
        (Load(1, 1, running=8), 1),
        (Load(1, 1, running=8.7), 1),
        (Load(1, 1, running=9), 2),
        (Load(1, 1, running=8, queued=5), 2),
        (Load(2, 2, running=30), 4),
        # At most twice of what runs, and no less than what is starting already.
        (Load(2, 2, running=200), 4),
        (Load(2, 4, running=200), 4),
        (Load(4, 4, running=200), 8),
        # One at a time, and only if the others can carry it easily.
        (Load(4, 4, running=1), 3),
        (Load(3, 3, running=15.5), 3),
        (Load(3, 3, running=14.4), 2),
        # The last one only goes when there is nothing at all.
        (Load(1, 1, running=0.01), 1),
        (Load(1, 1, running=5e-324, queued=1, tokens=1e6), 1),
        (Load(1, 1, running=0), 0),
        (Load(0, 0, running=0), 0),
        (Load(0, 0, running=0, queued=1), 1),
        # It starts, and its caller gave up.
        (Load(0, 1, running=0), 0),
    ],
)
def test_requests_decide(load: Load, wanted: int):
    assert replicas_wanted(load, BY_REQUESTS) == wanted


def test_tokens_decide_where_they_ask_for_more():
    by_both = Targets(ongoing=8, tokens=1000)
    few_but_long = Load(2, 2, running=4, tokens=3500)
    assert replicas_wanted(few_but_long, by_both) == 4
    assert replicas_wanted(few_but_long, BY_REQUESTS) == 1
    # What is queued is taken to be as long as the rest.
    assert replicas_wanted(dataclasses.replace(few_but_long, replicas=4, queued=4), by_both) == 7
    # A mean that is almost nothing makes no giants of them.
    assert replicas_wanted(Load(1, 1, running=5e-324, queued=1, tokens=100), by_both) == 1
    # Without word of tokens, requests decide alone.
    assert replicas_wanted(dataclasses.replace(few_but_long, tokens=None), by_both) == 1


@given(loads, targets, st.floats(1, 10))
def test_more_load_never_wants_fewer(load: Load, aims: Targets, factor: float):
    more = dataclasses.replace(
        load,
        running=load.running * factor,
        queued=load.queued * factor,
        tokens=None if load.tokens is None else load.tokens * factor,
    )
    assert replicas_wanted(more, aims) >= replicas_wanted(load, aims)


@given(loads, targets)
def test_a_step_is_one_down_or_at_most_twice_up(load: Load, aims: Targets):
    wanted = replicas_wanted(load, aims)
    assert load.wanted - 1 <= wanted <= max(load.wanted, 2 * max(1, load.replicas))
    assert wanted >= 0
    if load.running or load.queued:
        assert wanted > 0 or load.wanted == 0 or max(load.running, load.queued) / aims.ongoing < 1e-9


@given(loads, targets)
def test_a_load_that_stays_settles_and_does_not_go_to_and_fro(load: Load, aims: Targets):
    seen = [load.wanted]
    for _ in range(2000):
        now = dataclasses.replace(load, replicas=seen[-1], wanted=seen[-1])
        wanted = replicas_wanted(now, aims)
        if wanted == seen[-1]:
            break
        seen.append(wanted)
    else:
        pytest.fail("it never settles")
    assert seen in (sorted(seen), sorted(seen, reverse=True))


def context(replicas: list[str], wanted: int, **given: Any) -> AutoscalingContext:
    made: dict[str, Any] = {
        "deployment_id": None,
        "deployment_name": "model",
        "app_name": "manta-model-a-v1",
        "current_num_replicas": len(replicas),
        "target_num_replicas": wanted,
        "running_replicas": replicas,
        "total_num_requests": 0.0,
        "total_queued_requests": 0.0,
        "aggregated_metrics": {},
        "raw_metrics": {},
        "capacity_adjusted_min_replicas": 0,
        "capacity_adjusted_max_replicas": 9,
        "policy_state": {},
        "last_scale_up_time": None,
        "last_scale_down_time": None,
        "current_time": 0.0,
        "config": None,
    }
    return AutoscalingContext(**made | given)


def test_what_replicas_tell_goes_before_what_handles_count():
    told = {REQUESTS: {"a": 3.0, "b": 5.0}, TOKENS: {"a": 100.0, "b": 300.0}}
    given = {"total_num_requests": 40.0, "total_queued_requests": 2.0, "aggregated_metrics": told}
    assert load_of(context(["a", "b"], 2, **given)) == Load(2, 2, running=8, queued=2, tokens=400)
    # One of them has not told yet.
    assert load_of(context(["a", "b", "c"], 3, **given)) == Load(3, 3, running=38, queued=2, tokens=None)
    assert load_of(context(["a"], 1, total_num_requests=7.0)) == Load(1, 1, running=7, queued=0, tokens=None)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -1.0, None])
def test_odd_numbers_count_as_none(odd: Any):
    told = {REQUESTS: {"a": odd}, TOKENS: {"a": odd}}
    given = {"total_num_requests": 9.0, "total_queued_requests": odd, "aggregated_metrics": told}
    assert load_of(context(["a"], 1, **given)) == Load(1, 1, running=0, queued=0, tokens=0)


def test_a_policy_that_cannot_tell_changes_nothing():
    broken = context(["a"], 4, aggregated_metrics=lambda: 1 / 0)
    assert LoadPolicy(8)(broken) == (4, {})


def test_serve_loads_it_and_adds_delays():
    replicas = ReplicaSettings(min=0, max=4, target_ongoing=2, upscale_delay_s=0, downscale_delay_s=0)
    config = _model_options(replicas)["autoscaling_config"]
    # As the controller does.
    policy = _apply_autoscaling_config(_resolve_policy_callable(config.policy))
    given = {"config": config, "total_num_requests": 6.0}
    assert policy(context(["a", "b"], 2, **given))[0] == 3
    assert policy(context([], 0, **given))[0] == 1
    assert policy(context(["a"], 1, config=config))[0] == 0
    slow = config.model_copy(update={"downscale_delay_s": 60})
    assert policy(context(["a"], 1, config=slow))[0] == 1
