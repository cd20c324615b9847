"""Three times what a model can answer, on real Serve: what is answered is in time, the rest is refused at once."""

import asyncio
from collections import Counter
from typing import Any

import httpx

from tests.serving.process import Serving
from tests.serving.scenes import BATCH

ONGOING, QUEUED = 6, 6
TOKENS = 5
STEP_S = 0.2
KNEE = BATCH / (TOKENS * STEP_S)
"""Answers a second, at most."""
LIMITS = {"max_ongoing": ONGOING, "max_queued": QUEUED, "target_ongoing": BATCH, "num_cpus": 0.05}
MODELS = {"full": {"step_s": [STEP_S, 0], "max_batch": BATCH, "replicas": LIMITS}}


def test_goodput_stays_at_three_times_the_knee(there: Serving):
    at_knee = there.play("arrivals", model="full", rate=KNEE, calls=40, tokens=TOKENS, patience_s=4)
    over = there.play("arrivals", model="full", rate=3 * KNEE, calls=120, tokens=TOKENS, patience_s=4)
    print(at_knee, over)
    assert over["useful"] >= 0.9 * at_knee["useful"]
    assert at_knee["ended"]["ok"] >= 30
    assert over["ended"]["overloaded"] > 40
    assert over["ended"].keys() <= {"ok", "overloaded", "late", "cancelled"}


def test_the_line_is_bounded_over_all_callers_together(there: Serving):
    told = there.play("crowd", model="full", callers=7, calls=10, tokens=3 * TOKENS)
    ended = told["ended"]
    assert Counter(ended).keys() == {"ok", "overloaded"}
    assert len(ended) == 70
    assert told["stats"][0]["line"]["most"] <= ONGOING + QUEUED
    # Answers take three seconds and more: who is refused does not wait for one.
    assert ended.index("ok") > 40


async def asked(url: str, calls: int) -> list[httpx.Response]:
    """In the order in which they were answered."""
    answers: list[httpx.Response] = []
    async with httpx.AsyncClient(timeout=120) as client:

        async def ask(number: int) -> None:
            body: dict[str, Any] = {
                "model": "full",
                "messages": [{"role": "user", "content": f"question {number}"}],
                "max_tokens": 3 * TOKENS,
                "stream": number % 2 == 0,
            }
            answers.append(await client.post(f"{url}/v1/chat/completions", json=body))

        await asyncio.gather(*(ask(number) for number in range(calls)))
    return answers


def test_the_gateway_refuses_at_once_in_openai_s_words(there: Serving):
    answers = asyncio.run(asked(there.url, 50))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    assert statuses.index(200) > 30
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
            error = answer.json()["error"]
            assert error["code"] == "overloaded"
            assert error.keys() == {"message", "type", "code", "param"}
    # And goes on afterwards.
    assert there.play("ask", model="full", tokens=1) == "ok"


def test_limits_are_changed_in_place(there: Serving):
    (before,) = there.play("stats", model="full")
    fewer = {**MODELS["full"], "replicas": {**LIMITS, "max_ongoing": 4, "max_queued": 1}}
    (after,) = there.play("changed", model="full", given=fewer)
    # It is the same replica, which has forgotten nothing.
    assert after["served"] >= before["served"] > 0
    assert there.play("asks", model="full", calls=9, tokens=2 * TOKENS) == {"ok": 5, "overloaded": 4}
