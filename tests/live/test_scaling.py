"""Replication and autoscaling on real Serve, with an engine that sleeps a fitted step time."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.live.conftest import LivePlatform, eventually


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
