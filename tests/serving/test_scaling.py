"""Replicas follow the load and nothing fails by it: on real Serve, with an engine that sleeps a fitted step time."""

import pytest

from tests.serving.process import Serving

QUICK = {"num_cpus": 0.05, "upscale_delay_s": 1, "downscale_delay_s": 2}
MODELS = {
    "grows": {"step_s": [0.05, 0], "replicas": {**QUICK, "min": 1, "max": 3, "target_ongoing": 2}},
    "sleeps": {"step_s": [0.01, 0], "replicas": {**QUICK, "min": 0, "max": 1}},
    "wordy": {
        "step_s": [0.1, 0],
        "replicas": {**QUICK, "min": 1, "max": 2, "target_ongoing": 8, "target_tokens": 1000},
    },
}

# Several replicas start one after the other on cores that others use too.
pytestmark = pytest.mark.timeout(900)


def test_one_to_three_and_back_with_nothing_failed(there: Serving):
    told = there.play("pressed", model="grows", callers=8, tokens=10, wanted=3)
    # Two that come within a look of each other are seen together.
    assert (told["up"][0], told["up"][-1], told["up"]) == (1, 3, sorted(told["up"]))
    # The streams that were left in the middle hold nothing up.
    assert told["down"][-1] == 1
    assert told["down"] == sorted(told["down"], reverse=True)
    assert told["ended"].keys() == {"ok"}


def test_none_to_one_and_back_with_nothing_failed(there: Serving):
    for _ in range(2):
        assert there.play("until_replicas", model="sleeps", wanted=0)[-1] == 0
        assert there.play("asks", model="sleeps", calls=5, tokens=20) == {"ok": 5}


def test_few_requests_with_many_tokens_bring_a_second_replica(there: Serving):
    assert there.play("until_replicas", model="wordy", wanted=1) == [1]
    told = there.play("watched", model="wordy", calls=2, tokens=1500, wanted=2)
    assert told == [1, 2]
