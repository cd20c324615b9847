"""A better model is configuration only: another Manta as a remote server, and a vendor through LangChain.

Both point at this very platform's own OpenAI route, a real server that answers with the embedded model.
"""

import httpx
import pytest

from manta.client import Client
from manta.errors import MantaError
from tests.live.conftest import LivePlatform

CAPITAL = "What is the capital of France?"


@pytest.mark.parametrize("model", ["remote", "vendor"])
def test_it_answers_like_the_model_behind_it(client: Client, model: str):
    reply = client.chat(CAPITAL, model=model, temperature=0, max_tokens=20)
    assert reply.text == "The capital of France is Paris."
    assert "".join(client.chat(CAPITAL, model=model, temperature=0, max_tokens=20, stream=True)) == reply.text


def test_a_wrong_address_is_one_clear_error(platform: LivePlatform, client: Client):
    with pytest.raises(MantaError) as refused:
        client.chat(CAPITAL, model="nowhere")
    assert refused.value.code == "remote_model_error"
    assert "cannot be reached" in refused.value.message
    body = {"model": "nowhere", "messages": [{"role": "user", "content": "x"}]}
    assert httpx.post(f"{platform.url}/v1/chat/completions", json=body).status_code == 502
