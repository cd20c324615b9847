"""The remote backend against a second Manta: its real gateway over real HTTP, with a model that tells what it got."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path

import pytest

from manta.config import ModelSettings
from manta.errors import InvalidInput, MantaError
from manta.messages import (
    ChatChunk,
    ChatMessage,
    ChatRequest,
    ModelInfo,
    Sampling,
    TokenLogprob,
    ToolCall,
    ToolSpec,
    Usage,
)
from serve_app.backends.remote import RemoteBackend
from tests.gateway.platform import start
from tests.gateway.serving import served

TOOL = ToolSpec("add", "adds", {"type": "object", "properties": {"a": {"type": "integer"}}})
CALL = ToolCall("call_1", "add", {"a": 1})
TOKEN = TokenLogprob("4", 9, -0.1, (["4", 9, -0.1], ["5", 8, -2.5]))


class Telling:
    """Answers all the same, and keeps the requests."""

    def __init__(self) -> None:
        self.seen: list[ChatRequest] = []

    async def info(self) -> ModelInfo:
        return ModelInfo("told", 4096, ("tools",))

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        return len(messages)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        self.seen.append(request)
        if request.messages and request.messages[-1].content == "fail":
            raise InvalidInput("that cannot be", fix="ask for less")
        if request.tools:
            yield ChatChunk(
                tool_calls=(CALL,), finish_reason="tool_calls", usage=Usage(7, 3, 2, model_calls=1)
            )
            return
        if request.messages:
            yield ChatChunk(reasoning="2 and 2")
        yield ChatChunk(text="4", logprobs=(TOKEN,) if request.logprobs is not None else ())
        yield ChatChunk(text=" it is")
        yield ChatChunk(finish_reason="length", usage=Usage(7, 3, 2, model_calls=1))


@pytest.fixture
def model() -> Telling:
    return Telling()


@pytest.fixture
async def remote(tmp_path: Path, model: Telling) -> AsyncIterator[RemoteBackend]:
    local, stop = await start(tmp_path, {"told": model})
    async with served(local) as address:
        made = RemoteBackend("m", ModelSettings(backend="remote", base_url=f"{address}/v1", model="told"))
        made.start()
        yield made
    await stop()


async def chunks(remote: RemoteBackend, request: ChatRequest) -> list[ChatChunk]:
    return [chunk async for chunk in remote.stream(request)]


ASK = ChatRequest((ChatMessage("system", "be brief"), ChatMessage("user", "2+2?")), max_tokens=5)


async def test_an_answer_comes_as_it_was_given(remote: RemoteBackend, model: Telling):
    given = await chunks(remote, ASK)
    assert "".join(chunk.text for chunk in given) == "4 it is"
    assert "".join(chunk.reasoning for chunk in given) == "2 and 2"
    assert given[-1].finish_reason == "length"
    assert given[-1].usage == Usage(7, 3, 2, model_calls=1)
    assert model.seen[0].messages == ASK.messages
    assert model.seen[0].max_tokens == 5


async def test_all_of_a_request_arrives(remote: RemoteBackend, model: Telling):
    sampling = Sampling(4, 0.1, 1.2, 0.3, 0.4, {"7": -100.0}, (9,), True)
    request = ChatRequest(
        ASK.messages,
        temperature=0.7,
        top_p=0.5,
        stop=("x",),
        seed=3,
        logprobs=2,
        response_format={"type": "regex", "regex": "[0-9]"},
        sampling=sampling,
    )
    given = await chunks(remote, request)
    (seen,) = model.seen
    assert seen.sampling == sampling
    assert (seen.temperature, seen.top_p, seen.stop, seen.seed) == (0.7, 0.5, ("x",), 3)
    assert (seen.logprobs, seen.response_format) == (2, request.response_format)
    (token,) = [token for chunk in given for token in chunk.logprobs]
    assert (token.text, token.logprob) == ("4", -0.1)
    assert [(row[0], row[2]) for row in token.top] == [("4", -0.1), ("5", -2.5)]


async def test_tool_calls_come_back(remote: RemoteBackend, model: Telling):
    request = ChatRequest(ASK.messages, tools=(TOOL,), tool_choice="add", parallel_tool_calls=False)
    last = (await chunks(remote, request))[-1]
    assert (last.tool_calls, last.finish_reason) == ((CALL,), "tool_calls")
    (seen,) = model.seen
    assert (seen.tools, seen.tool_choice, seen.parallel_tool_calls) == ((TOOL,), "add", False)


async def test_a_raw_prompt_stays_raw(remote: RemoteBackend, model: Telling):
    given = await chunks(remote, ChatRequest((), prompt="2+2=", max_tokens=5))
    assert "".join(chunk.text for chunk in given) == "4 it is"
    assert model.seen[0].prompt == "2+2="
    await chunks(remote, ChatRequest((), prompt_ids=(5, 6), max_tokens=5))
    assert model.seen[1].prompt_ids == (5, 6)


async def test_an_error_there_is_an_error_here(remote: RemoteBackend):
    with pytest.raises(MantaError, match="that cannot be") as refused:
        await chunks(remote, ChatRequest((ChatMessage("user", "fail"),)))
    assert not refused.value.retryable
