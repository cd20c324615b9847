"""The remote backend against a real HTTP server: what it understands, and how it fails."""

from typing import Any

import pytest

from manta.config import ModelSettings
from manta.errors import ContextLengthExceeded, InvalidConfig, ModelError, RemoteModelError
from manta.messages import ChatChunk, ChatMessage, ChatRequest, ToolCall, ToolSpec
from serve_app.backends.remote import RemoteBackend
from tests.backends.openai_double import delta, refuse, serving, stream

ASK = ChatRequest((ChatMessage("user", "hi"),), max_tokens=5, stop=("x",), seed=1)


def backend(url: str, **more: Any) -> RemoteBackend:
    made = RemoteBackend("m", ModelSettings(backend="remote", base_url=url, **more))
    made.start()
    return made


async def collect(made: RemoteBackend, request: ChatRequest = ASK) -> list[ChatChunk]:
    return [chunk async for chunk in made.stream(request)]


async def test_text_comes_in_pieces_with_usage_at_the_end():
    usage = {"usage": {"prompt_tokens": 3, "completion_tokens": 2}, "choices": []}
    with serving(stream(delta(content="Hel"), delta(content="lo"), delta(finish="stop"), usage)) as url:
        chunks = await collect(backend(url))
    assert [chunk.text for chunk in chunks] == ["Hel", "lo", ""]
    assert chunks[-1].finish_reason == "stop"
    assert (chunks[-1].usage.input_tokens, chunks[-1].usage.output_tokens) == (3, 2)


async def test_tool_calls_are_put_together_from_their_pieces():
    first = {"index": 0, "id": "c1", "function": {"name": "add", "arguments": '{"a"'}}
    second = {"index": 0, "function": {"arguments": ": 1}"}}
    other = {"index": 1, "id": "c2", "function": {"name": "now", "arguments": "{}"}}
    answer = stream(delta(tool_calls=[first]), delta(tool_calls=[second, other]), delta(finish="tool_calls"))
    with serving(answer) as url:
        last = (await collect(backend(url)))[-1]
    assert last.tool_calls == (ToolCall("c1", "add", {"a": 1}), ToolCall("c2", "now", {}))


async def test_the_request_is_openais():
    seen: list[dict[str, Any]] = []

    def answer(handler: Any, body: dict[str, Any]) -> None:
        seen.append({**body, "authorization": handler.headers.get("Authorization")})
        stream(delta(finish="stop"))(handler, body)

    tools = (ToolSpec("t", "does", {"type": "object"}),)
    with serving(answer) as url:
        made = backend(url, model="big", api_key_env="THE_KEY")
        request = ChatRequest(ASK.messages, tools=tools, max_tokens=5, stop=("x",), seed=1)
        await collect(made, request)
    body = seen[0]
    assert body["authorization"] == "Bearer secret-key"
    assert (body["model"], body["max_tokens"], body["stop"], body["seed"]) == ("big", 5, ["x"], 1)
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert body["tools"][0]["function"]["name"] == "t"
    assert body["stream_options"] == {"include_usage": True}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "secret-key")


@pytest.mark.parametrize(
    ("status", "kind", "code", "retryable"),
    [
        (401, RemoteModelError, "remote_model_unauthorized", False),
        (404, RemoteModelError, "remote_model_not_found", False),
        (429, RemoteModelError, "remote_model_error", True),
        (503, RemoteModelError, "remote_model_error", True),
        (422, RemoteModelError, "remote_model_error", False),
    ],
)
async def test_refusals_say_what_to_mend_and_whether_to_try_again(
    status: int, kind: type[ModelError], code: str, retryable: bool
):
    with serving(refuse(status, "no")) as url, pytest.raises(kind) as refused:
        await collect(backend(url, api_key_env="THE_KEY"))
    assert (refused.value.code, refused.value.retryable) == (code, retryable)
    assert refused.value.fix
    assert "secret-key" not in str(refused.value)


async def test_too_long_a_prompt_is_said_to_be_that():
    with serving(refuse(400, "maximum context length is 10")) as url, pytest.raises(ContextLengthExceeded):
        await collect(backend(url))


async def test_an_address_where_nobody_listens():
    with pytest.raises(RemoteModelError, match="cannot be reached") as refused:
        await collect(backend("http://127.0.0.1:9/v1"))
    assert "base_url" in refused.value.fix
    assert refused.value.retryable


@pytest.mark.parametrize("answer", [stream("{not json"), stream({"error": {"message": "out of memory"}})])
async def test_a_stream_that_breaks_is_an_error(answer: Any):
    with serving(answer) as url, pytest.raises(RemoteModelError):
        await collect(backend(url))


async def test_a_stream_without_its_end_is_an_error():
    with (
        serving(stream(delta(content="half"), done=False)) as url,
        pytest.raises(RemoteModelError, match="broke off"),
    ):
        await collect(backend(url))


def test_a_key_that_is_not_set_is_found_at_the_start():
    with pytest.raises(InvalidConfig, match="NO_SUCH_KEY is not set"):
        backend("http://127.0.0.1:9/v1", api_key_env="NO_SUCH_KEY")
