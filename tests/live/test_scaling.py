"""Replication and autoscaling on real Serve, with an engine that sleeps a fitted step time."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.live.conftest import LivePlatform, eventually
from tests.live.serving import Serving, serving

QUICK = {"num_cpus": 0.05, "upscale_delay_s": 1, "downscale_delay_s": 2}
MODELS = {
    "grows": {"step_s": [0.05, 0], "replicas": {**QUICK, "min": 1, "max": 3, "target_ongoing": 2}},
    "sleeps": {"step_s": [0.01, 0], "replicas": {**QUICK, "min": 0, "max": 1}},
    "wordy": {
        "step_s": [0.1, 0],
        "replicas": {**QUICK, "min": 1, "max": 2, "target_ongoing": 8, "target_tokens": 1000},
    },
}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("scaling"), MODELS) as made:
        yield made


def test_one_to_three_and_back_with_nothing_failed(there: Serving):
    told = there.play("pressed", model="grows", callers=8, tokens=10, wanted=3)
    assert told["up"] == [1, 2, 3]
    # The streams that were left in the middle hold nothing up.
    assert told["down"] == [3, 2, 1]
    assert told["ended"].keys() == {"ok"}


def test_none_to_one_and_back_with_nothing_failed(there: Serving):
    for _ in range(2):
        assert there.play("until_replicas", model="sleeps", wanted=0)[-1] == 0
        assert there.play("asks", model="sleeps", calls=5, tokens=20) == {"ok": 5}


def test_few_requests_with_many_tokens_bring_a_second_replica(there: Serving):
    assert there.play("until_replicas", model="wordy", wanted=1) == [1]
    told = there.play("watched", model="wordy", calls=2, tokens=1500, wanted=2)
    assert told == [1, 2]


def replicas(platform: LivePlatform, model: str) -> list[dict]:
    return httpx.get(f"{platform.url}/models/{model}/replicas", timeout=30).json()


def ask(platform: LivePlatform, model: str, tokens: int) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "go"}], "max_tokens": tokens}
    return httpx.post(f"{platform.url}/v1/chat/completions", json=body, timeout=120).status_code


def test_load_brings_a_second_replica_and_its_end_takes_it_away(platform: LivePlatform):
    assert len(replicas(platform, "scaling")) == 1
    statuses: Counter[int] = Counter()
    ended = threading.Event()

    def caller() -> None:
        while not ended.is_set():
            statuses[ask(platform, "scaling", 25)] += 1

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(caller) for _ in range(8)]
        try:
            eventually(lambda: len(replicas(platform, "scaling")) == 2, "a second replica")
            served = [replica["served"] for replica in replicas(platform, "scaling")]
            eventually(
                lambda: all(r["served"] > 0 for r in replicas(platform, "scaling")),
                f"both serving, {served} so far",
            )
        finally:
            ended.set()
        for call in calls:
            call.result(timeout=120)
    # One more stream is under way while the second replica goes: it must not be cut.
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(ask, platform, "scaling", 200)
        eventually(lambda: len(replicas(platform, "scaling")) == 1, "the second replica to go")
        statuses[long.result(timeout=120)] += 1
    assert statuses.keys() == {200}
    assert statuses[200] > 8


def test_two_replicas_hold_different_devices(platform: LivePlatform):
    held = [tuple(replica["gpus"]) for replica in replicas(platform, "on-gpus")]
    assert len(held) == 2
    assert all(len(gpus) == 1 for gpus in held)
    assert held[0] != held[1]
    assert ask(platform, "on-gpus", 3) == 200
