"""Calls meet the KV that is kept of them, on real Serve: counted by a model of a prefix cache in each replica."""

import httpx

from tests.serving.process import Serving

RUNS, CALLS = 8, 10
REPLICAS = {"min": 3, "max": 3, "num_cpus": 0.05, "affinity_slack": RUNS}
MODELS = {
    "affine": {"step_s": [0.005, 0], "replicas": REPLICAS},
    "even": {"step_s": [0.005, 0], "replicas": {**REPLICAS, "routing": "balanced"}},
}


def test_all_that_a_run_has_sent_before_is_in_its_replica(there: Serving):
    affine = there.play("talks", model="affine", runs=RUNS, calls=CALLS, words=200)
    even = there.play("talks", model="even", runs=RUNS, calls=CALLS, words=200)
    print(affine, even)
    assert affine["known"] == even["known"] > 0.8 * affine["prompt"]
    assert affine["cached"] == affine["known"]
    assert even["cached"] < 0.9 * even["known"]
    assert sum(affine["served"]) == RUNS * CALLS
    assert min(even["served"]) > 0


def test_prompts_that_begin_alike_meet_through_the_gateway(there: Serving):
    def ask(system: str, question: str) -> None:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        body = {"model": "affine", "messages": messages, "max_tokens": 1}
        answer = httpx.post(f"{there.url}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text

    def served() -> list[int]:
        return [replica["served"] for replica in there.play("stats", model="affine")]

    before = served()
    long = "You answer about fish. " * 100
    for number in range(9):
        ask(long, f"question {number}")
    assert sorted(now - then for now, then in zip(served(), before, strict=True)) == [0, 0, 9]
