"""The server backend with a real server: `transformers serve` on a random model of two layers."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from manta.config import ModelSettings
from manta.errors import InvalidInput, RemoteModelError
from manta.messages import ChatChunk, ChatMessage, ChatRequest, Sampling, ToolSpec
from serve_app.backends.server import ServerBackend
from tests.engine.support import small_tokenizer
from tests.waiting import eventually

TEMPLATE = "{% for message in messages %}<s>{{ message.content }}</s>{% endfor %}"
ASK = ChatRequest((ChatMessage("user", "the moon"),), max_tokens=8)
TOOL = ToolSpec("now", "the time", {"type": "object"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    made = tmp_path_factory.mktemp("tiny model")
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=small_tokenizer(made), bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    )
    tokens.save_pretrained(made)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    # No end of text, so that an answer always has its full length.
    config = LlamaConfig(vocab_size=len(tokens), **sizes, bos_token_id=1, eos_token_id=None, pad_token_id=0)
    LlamaForCausalLM(config).save_pretrained(made)
    return made


@pytest.fixture
async def backend(folder: Path) -> AsyncIterator[ServerBackend]:
    settings = ModelSettings.model_validate(
        {
            "backend": "server",
            "source": str(folder),
            "threads": 1,
            "launch": {
                "preset": "transformers",
                "args": ["--device", "cpu"],
                "env": {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")},
                "start_timeout_s": 120,
            },
        }
    )
    made = ServerBackend("tiny", settings, probe_s=0.2, first_delay_s=0.01)
    await asyncio.to_thread(made.start)
    yield made
    await asyncio.to_thread(made.stop)
    assert not _servers(folder)


def _servers(folder: Path) -> list[psutil.Process]:
    """Processes that this one has started for the model in the folder."""
    ours = psutil.Process(os.getpid()).children(recursive=True)
    return [process for process in ours if str(folder) in process.cmdline()]


async def _chunks(backend: ServerBackend, request: ChatRequest) -> list[ChatChunk]:
    return [chunk async for chunk in backend.stream(request)]


async def test_a_real_server_answers_and_comes_back_when_it_is_killed(backend: ServerBackend, folder: Path):
    chunks = await _chunks(backend, ASK)
    text = "".join(chunk.text for chunk in chunks)
    last = chunks[-1]
    assert text
    assert last.finish_reason == "length"
    assert last.usage is not None
    assert (last.usage.output_tokens, last.usage.model_calls) == (8, 1)
    assert last.usage.input_tokens > 2

    raw = await _chunks(backend, ChatRequest((), prompt="<s>the moon</s>", max_tokens=8))
    assert "".join(chunk.text for chunk in raw) == text, "the template makes the same of the message"
    with_tool = await _chunks(backend, ChatRequest(ASK.messages, tools=(TOOL,), max_tokens=4))
    assert with_tool[-1].finish_reason == "length"
    with pytest.raises(InvalidInput, match="response_format"):
        await _chunks(backend, ChatRequest(ASK.messages, response_format={"type": "json_object"}))
    with pytest.raises(RemoteModelError, match="top_k"):
        await _chunks(backend, ChatRequest(ASK.messages, sampling=Sampling(top_k=3)))
    assert await backend.count_tokens(ASK.messages) > 0
    assert (await backend.info()).context_window == 8192, "the server tells none"

    server = max(_servers(folder), key=lambda process: process.create_time())
    server.kill()
    await eventually(
        lambda: backend.stats()["starts"] >= 2 and backend._client is not None, "another server", 120
    )
    again = await _chunks(backend, ASK)
    assert "".join(chunk.text for chunk in again) == text
