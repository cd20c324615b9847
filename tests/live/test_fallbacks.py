"""A model whose server is gone: another answers in its place, and its breaker spares callers the tries."""

import httpx

from manta.client import Client
from manta.faults import read_ledger
from tests.live.conftest import LivePlatform

CAPITAL = "What is the capital of France?"
ANSWER = "The capital of France is Paris."


def tries(platform: LivePlatform) -> int:
    """How often a replica of `absent` was asked through the API."""
    lines = read_ledger(platform.ledger)
    return sum(
        line["kind"] == "model_call" and line["model"] == "absent" and not line["run"] for line in lines
    )


def test_a_fallback_answers_until_the_breaker_opens_and_then_at_once(platform: LivePlatform, client: Client):
    before = tries(platform)
    assert before == 0
    asked = []
    for _ in range(4):
        reply = client.chat(CAPITAL, model="absent", temperature=0, max_tokens=20)
        assert reply.text == ANSWER
        asked.append(tries(platform))
    # Two tries a call, four failures until it opens.
    assert asked == [2, 4, 4, 4]
    assert "".join(client.chat(CAPITAL, model="absent", temperature=0, max_tokens=20, stream=True)) == ANSWER
    assert tries(platform) == 4


def test_a_fallback_serves_agents_too(platform: LivePlatform, client: Client):
    run = client.run("helped", {"question": CAPITAL})
    assert run.output


def test_what_is_told_of_a_model_is_its_own(platform: LivePlatform):
    for name in ("absent", "smollm2"):
        (replica,) = httpx.get(f"{platform.url}/models/{name}/replicas").json()
        assert ("served" in replica) == (name == "absent")
    body = {"model": "absent", "messages": [{"role": "user", "content": "word " * 20_000}], "max_tokens": 1}
    refused = httpx.post(f"{platform.url}/v1/chat/completions", json=body, timeout=60)
    # Neither answers: told is that of the model that was asked, not that the other's window is small.
    assert refused.status_code in (502, 503), refused.text
    assert refused.json()["error"]["code"] in ("remote_model_error", "model_unavailable")
