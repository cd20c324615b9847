"""The LangChain backend through OpenAI's own class, against a real HTTP server."""

from typing import Any

import pytest

from manta.config import ModelSettings
from manta.errors import ContextLengthExceeded, InvalidInput, ModelError, ModelLoadError, RemoteModelError
from manta.messages import ChatChunk, ChatMessage, ChatRequest, Sampling, TokenLogprob, ToolCall, ToolSpec
from serve_app.backends.langchain_backend import LangChainBackend
from tests.backends.openai_double import delta, refuse, serving, stream

ASK = ChatRequest((ChatMessage("user", "hi"),))
ADD = ToolSpec("add", "adds", {"type": "object", "properties": {"a": {"type": "integer"}}})
USAGE = {
    "choices": [],
    "usage": {
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "total_tokens": 11,
        "prompt_tokens_details": {"cached_tokens": 4},
    },
}


SHAPES = pytest.mark.parametrize(
    "shape",
    [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "out", "schema": {"type": "object"}}},
    ],
    ids=["json", "schema"],
)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "secret-key")


def backend(url: str) -> LangChainBackend:
    settings = ModelSettings(
        backend="langchain", source="openai:big", base_url=url, api_key_env="THE_KEY", timeout_s=20
    )
    made = LangChainBackend("m", settings)
    made.start()
    return made


async def collect(url: str, request: ChatRequest = ASK) -> list[ChatChunk]:
    return [chunk async for chunk in backend(url).stream(request)]


def shaped(finish: str) -> tuple[dict[str, Any], ...]:
    """An answer in chunks as whole as OpenAI's client wants them where a shape is asked."""
    head = {"id": "1", "object": "chat.completion.chunk"}
    return {**head, **delta(role="assistant", content="{}")}, {**head, **delta(finish=finish)}


async def sent(request: ChatRequest) -> dict[str, Any]:
    """The body that the vendor's server gets."""
    seen: list[dict[str, Any]] = []

    def answer(handler: Any, body: dict[str, Any]) -> None:
        seen.append({**body, "authorization": handler.headers.get("Authorization")})
        stream(*shaped("stop"))(handler, body)

    with serving(answer) as url:
        await collect(url, request)
    assert len(seen) == 1
    return seen[0]


async def test_text_comes_in_pieces_with_usage_at_the_end():
    with serving(stream(delta(content="Hel"), delta(content="lo"), delta(finish="stop"), USAGE)) as url:
        chunks = await collect(url)
    assert [chunk.text for chunk in chunks if chunk.text] == ["Hel", "lo"]
    assert chunks[-1].finish_reason == "stop"
    usage = chunks[-1].usage
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.model_calls) == (9, 2, 4, 1)


async def test_an_answer_cut_short_says_so():
    with serving(stream(delta(content="Hel"), delta(finish="length"))) as url:
        assert (await collect(url))[-1].finish_reason == "length"


@SHAPES
async def test_an_answer_in_a_shape_that_is_cut_short_is_no_error(shape: dict[str, Any]):
    request = ChatRequest(ASK.messages, response_format=shape)
    with serving(stream(*shaped("length"))) as url:
        chunks = await collect(url, request)
    assert "".join(chunk.text for chunk in chunks) == "{}"
    assert chunks[-1].finish_reason == "length"


async def test_tool_calls_are_put_together_from_their_pieces():
    first = {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a"'}}
    second = {"index": 0, "function": {"arguments": ": 1}"}}
    answer = stream(delta(tool_calls=[first]), delta(tool_calls=[second]), delta(finish="tool_calls"))
    with serving(answer) as url:
        last = (await collect(url, ChatRequest(ASK.messages, tools=(ADD,))))[-1]
    assert last.tool_calls == (ToolCall("c1", "add", {"a": 1}),)
    assert last.finish_reason == "tool_calls"


async def test_arguments_that_are_not_json_are_an_error_and_no_lost_call():
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": "a is 1"}}
    with (
        serving(stream(delta(tool_calls=[call]), delta(finish="tool_calls"))) as url,
        pytest.raises(RemoteModelError, match="'add' are not JSON"),
    ):
        await collect(url, ChatRequest(ASK.messages, tools=(ADD,)))


@pytest.mark.parametrize("tools", [(), (ADD,)], ids=["without_tools", "with_tools"])
async def test_options_reach_the_vendor(tools: tuple[ToolSpec, ...]):
    request = ChatRequest(
        ASK.messages, tools=tools, temperature=0.5, top_p=0.9, max_tokens=5, stop=("x",), seed=7
    )
    body = await sent(request)
    assert body["authorization"] == "Bearer secret-key"
    assert (body["model"], body["temperature"], body["top_p"], body["seed"]) == ("big", 0.5, 0.9, 7)
    assert (body["max_completion_tokens"], body["stop"]) == (5, ["x"])
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert [tool["function"]["name"] for tool in body.get("tools", [])] == [tool.name for tool in tools]


async def test_greedy_is_said_and_the_rest_left_to_the_vendor():
    body = await sent(ASK)
    assert body["temperature"] == 0
    assert not {"top_p", "seed", "stop", "max_completion_tokens", "response_format", "tools"} & set(body)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, None),
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ("add", {"type": "function", "function": {"name": "add"}}),
    ],
)
async def test_the_choice_of_tools(choice: str | None, expected: Any):
    body = await sent(ChatRequest(ASK.messages, tools=(ADD,), tool_choice=choice))
    assert body.get("tool_choice") == expected


@pytest.mark.parametrize("tools", [(), (ADD,)], ids=["without_tools", "with_tools"])
@SHAPES
async def test_the_shape_of_the_answer(shape: dict[str, Any], tools: tuple[ToolSpec, ...]):
    body = await sent(ChatRequest(ASK.messages, tools=tools, response_format=shape))
    assert body["response_format"] == shape


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (401, "remote_model_unauthorized", False),
        (403, "remote_model_unauthorized", False),
        (404, "remote_model_not_found", False),
        (422, "remote_model_error", False),
        (429, "remote_model_error", True),
        (503, "remote_model_error", True),
    ],
)
async def test_refusals_are_asked_once_and_say_whether_to_try_again(status: int, code: str, retryable: bool):
    asked: list[int] = []

    def answer(handler: Any, body: dict[str, Any]) -> None:
        asked.append(status)
        refuse(status, "no, secret-key")(handler, body)

    with serving(answer) as url, pytest.raises(RemoteModelError) as refused:
        await collect(url)
    assert (refused.value.code, refused.value.retryable) == (code, retryable)
    assert refused.value.fix
    assert asked == [status]


async def test_a_refused_key_is_not_repeated_in_the_error():
    with serving(refuse(401, "wrong key: secret-key")) as url, pytest.raises(RemoteModelError) as refused:
        await collect(url)
    assert "secret-key" not in str(refused.value)


async def test_too_long_a_prompt_is_said_to_be_that():
    answer = refuse(400, '{"error": {"message": "maximum context length is 10"}}')
    with serving(answer) as url, pytest.raises(ContextLengthExceeded):
        await collect(url)


async def test_nobody_listens_and_a_broken_stream_may_be_tried_again():
    with pytest.raises(ModelError) as refused:
        await collect("http://127.0.0.1:9/v1")
    assert refused.value.retryable
    with (
        serving(stream({"error": {"message": "out of memory"}})) as url,
        pytest.raises(RemoteModelError, match="out of memory") as broken,
    ):
        await collect(url)
    assert broken.value.retryable


def test_a_vendor_whose_package_is_missing():
    made = LangChainBackend("m", ModelSettings(backend="langchain", source="nosuchvendor:big"))
    with pytest.raises(ModelLoadError, match="nosuchvendor"):
        made.start()


async def test_what_langchain_has_a_word_for_is_passed_on():
    sampling = Sampling(presence_penalty=0.3, frequency_penalty=0.4, logit_bias={"7": -1.0})
    body = await sent(
        ChatRequest(ASK.messages, tools=(ADD,), parallel_tool_calls=False, logprobs=2, sampling=sampling)
    )
    assert (body["presence_penalty"], body["frequency_penalty"]) == (0.3, 0.4)
    assert (body["logit_bias"], body["logprobs"], body["top_logprobs"]) == ({"7": -1.0}, True, 2)
    assert body["parallel_tool_calls"] is False


async def test_log_probabilities_come_back():
    token = {"token": "4", "logprob": -0.1, "top_logprobs": [], "bytes": None}
    said = {"index": 0, "delta": {"content": "4"}, "logprobs": {"content": [token]}}
    with serving(stream({"choices": [said]}, delta(finish="stop"))) as url:
        chunks = await collect(url)
    assert [chunk.logprobs for chunk in chunks if chunk.logprobs] == [(TokenLogprob("4", -1, -0.1),)]


@pytest.mark.parametrize(
    "more",
    [
        {"prompt": "Once"},
        {"response_format": {"type": "regex", "regex": "a+"}},
        {"sampling": Sampling(min_p=0.1)},
        {"sampling": Sampling(repetition_penalty=1.1)},
        {"sampling": Sampling(stop_token_ids=(3,))},
        {"sampling": Sampling(ignore_eos=True)},
    ],
)
async def test_what_langchain_has_no_word_for_is_refused(more: dict[str, Any]):
    with pytest.raises(InvalidInput, match="no word for"):
        await collect("http://127.0.0.1:9/v1", ChatRequest(ASK.messages, **more))


async def test_what_a_vendors_class_does_not_take_is_refused_by_it():
    with serving(stream()) as url, pytest.raises(RemoteModelError, match="top_k") as refused:
        await collect(url, ChatRequest(ASK.messages, sampling=Sampling(top_k=3)))
    assert not refused.value.retryable
