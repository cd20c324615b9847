"""A better model is configuration only: another Manta as a remote server, a vendor through LangChain, a server
that a replica starts.

The first two point at this very platform's own OpenAI route, a real server that answers with the embedded model.
"""

import json

import httpx
import psutil
import pytest

from manta.client import Client
from manta.errors import MantaError
from tests.live.conftest import LivePlatform, eventually

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


def test_a_remote_manta_takes_raw_prompts_and_tells_log_probabilities(platform: LivePlatform):
    body = {"prompt": "The capital of France is", "temperature": 0, "max_tokens": 4, "logprobs": 2}
    answers = []
    for model in ("smollm2", "remote"):
        response = httpx.post(f"{platform.url}/v1/completions", json={**body, "model": model}, timeout=60)
        assert response.status_code == 200, response.text
        answers.append(response.json()["choices"][0])
    ours, theirs = answers
    assert theirs["text"] == ours["text"]
    assert theirs["logprobs"]["tokens"] == ours["logprobs"]["tokens"]
    assert theirs["logprobs"]["token_logprobs"] == pytest.approx(ours["logprobs"]["token_logprobs"], abs=0.05)


def _servers(platform: LivePlatform) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        # The keeper's line holds the server's.
        ours = any(word.endswith("server_double.py") for word in line[:2])
        if ours and str(platform.config.parent / "server_notes") in line:
            found.append(process)
    return found


def _answers(client: Client) -> bool:
    try:
        return client.chat("hi", model="child").text.startswith("well ")
    except MantaError:
        return False


def _devices(platform: LivePlatform) -> set[str]:
    """Those that the last server was given."""
    last = json.loads((platform.config.parent / "server_notes").read_text().splitlines()[-1])
    assert last["spread"] == 2
    return set(last["environment"]["CUDA_VISIBLE_DEVICES"].split(","))


def _held(platform: LivePlatform, model: str) -> set[str]:
    replicas = httpx.get(f"{platform.url}/models/{model}/replicas", timeout=30).json()
    return {str(device) for replica in replicas for device in replica["gpus"]}


def test_a_server_has_the_devices_that_its_replica_reserved(platform: LivePlatform, client: Client):
    assert client.chat("hi", model="child").text.startswith("well ")
    devices = _devices(platform)
    assert len(devices) == 2
    assert devices == _held(platform, "child")
    assert not devices & _held(platform, "on-gpus")


def test_a_replica_starts_a_server_and_takes_it_along_when_it_is_killed(
    platform: LivePlatform, client: Client
):
    assert client.chat("hi", model="child").text.startswith("well ")
    (server,) = _servers(platform)
    server.kill()
    eventually(lambda: _answers(client), "the server's second start")
    (server,) = _servers(platform)
    (replica,) = platform.processes("ray::ServeReplica:manta-model-child-v1:")
    replica.kill()
    eventually(lambda: not server.is_running(), "the end of the killed replica's server")
    eventually(lambda: _answers(client), "another replica with a server of its own")
    assert len(_servers(platform)) == 1
    assert len(_devices(platform)) == 2
