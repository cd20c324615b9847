"""The remote backend against a real HTTP server: what it understands, and how it fails."""

import pickle
from typing import Any

import pytest

from manta.config import ModelSettings
from manta.errors import ContextLengthExceeded, InvalidConfig, InvalidInput, ModelError, RemoteModelError
from manta.messages import (
    ChatChunk,
    ChatMessage,
    ChatRequest,
    Sampling,
    TokenLogprob,
    ToolCall,
    ToolSpec,
)
from serve_app.backends.openai_client import ASK_AGAIN_S, OpenAIClient
from serve_app.backends.remote import RemoteBackend
from tests.backends.openai_double import asked, delta, refuse, serving, stream

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


NOW = ToolSpec("now", "the time", {"type": "object"})


def now_call(index: int, arguments: str = "{}") -> dict[str, Any]:
    return {"index": index, "id": f"c{index}", "function": {"name": "now", "arguments": arguments}}


@pytest.mark.parametrize(
    ("more", "count"), [({}, 2), ({"parallel_tool_calls": False}, 1), ({"tool_choice": "now"}, 1)]
)
async def test_where_one_call_was_asked_for_there_is_one(more: dict[str, Any], count: int):
    with serving(stream(delta(tool_calls=[now_call(0), now_call(1)]), delta(finish="tool_calls"))) as url:
        last = (await collect(backend(url), ChatRequest(ASK.messages, tools=(NOW,), **more)))[-1]
    assert [call.id for call in last.tool_calls] == ["c0", "c1"][:count]


@pytest.mark.parametrize("choice", ["required", "now"])
async def test_text_where_a_call_was_forced_is_an_error(choice: str):
    asked = ChatRequest(ASK.messages, tools=(NOW,), tool_choice=choice)
    missing = pytest.raises(RemoteModelError, match="called no tool")
    with serving(stream(delta(content="well"), delta(finish="stop"))) as url, missing:
        await collect(backend(url), asked)
    with serving(stream(delta(content="we"), delta(finish="length"))) as url:
        assert (await collect(backend(url), asked))[-1].finish_reason == "length"
    free = ChatRequest(ASK.messages, tools=(NOW,))
    with serving(stream(delta(content="well"), delta(finish="stop"))) as url:
        assert (await collect(backend(url), free))[-1].finish_reason == "stop"


async def test_a_call_that_was_cut_off_is_left_out():
    calls = [now_call(0), now_call(1, '{"zone": "Eu')]
    with serving(stream(delta(tool_calls=calls), delta(finish="length"))) as url:
        last = (await collect(backend(url)))[-1]
    assert ([call.id for call in last.tool_calls], last.finish_reason) == (["c0"], "length")
    none = pytest.raises(RemoteModelError, match="a tool call that is none")
    with serving(stream(delta(tool_calls=calls), delta(finish="tool_calls"))) as url, none:
        await collect(backend(url))


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
        await collect(backend("http://me:p4ss@word@127.0.0.1:9/v1"))
    assert "http://127.0.0.1:9/v1 " in str(refused.value)
    assert "p4ss" not in str(refused.value)
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


EVERYTHING = ChatRequest(
    ASK.messages,
    tools=(ToolSpec("t", "does", {"type": "object"}),),
    tool_choice="t",
    parallel_tool_calls=False,
    top_p=0.5,
    logprobs=2,
    response_format={"type": "json_object"},
    sampling=Sampling(4, 0.1, 1.2, 0.3, 0.4, {"7": -100.0}, (9,), True),
)


async def sent(request: ChatRequest, **more: Any) -> dict[str, Any]:
    seen: list[dict[str, Any]] = []

    def answer(handler: Any, body: dict[str, Any]) -> None:
        seen.append({**body, "path": handler.path})
        # Cut off, so that nothing is missed in it.
        stream(delta(finish="length"))(handler, body)

    with serving(answer) as url:
        await collect(backend(url, **more), request)
    return seen[0]


async def test_all_of_a_request_is_passed_on():
    body = await sent(EVERYTHING)
    assert body["tool_choice"] == {"type": "function", "function": {"name": "t"}}
    assert body["parallel_tool_calls"] is False
    assert (body["top_p"], body["logprobs"], body["top_logprobs"]) == (0.5, True, 2)
    assert body["response_format"] == {"type": "json_object"}
    assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (4, 0.1, 1.2)
    assert (body["presence_penalty"], body["frequency_penalty"]) == (0.3, 0.4)
    assert (body["logit_bias"], body["stop_token_ids"], body["ignore_eos"]) == ({"7": -100.0}, [9], True)


async def test_what_is_at_its_default_is_not_sent_as_some_servers_refuse_it():
    body = await sent(ChatRequest(ASK.messages, tool_choice="auto", parallel_tool_calls=False))
    assert sorted(body) == ["messages", "model", "path", "stream", "stream_options", "temperature"]


@pytest.mark.parametrize("raw", [{"prompt": "Once"}, {"prompt_ids": (5, 6)}])
async def test_a_raw_prompt_goes_to_completions(raw: dict[str, Any]):
    body = await sent(ChatRequest((), logprobs=2, **raw))
    assert body["path"] == "/v1/completions"
    assert body["prompt"] == (raw.get("prompt") or [5, 6])
    assert body["logprobs"] == 2
    assert "messages" not in body


async def test_answers_to_raw_prompts_are_read():
    logprobs = {
        "tokens": ["a", "b"],
        "token_logprobs": [None, -0.5],
        "top_logprobs": [None, {"c": -3, "b": -0.5}],
    }
    pieces = [{"text": "ab", "logprobs": logprobs, "finish_reason": "length"}]
    with serving(stream({"choices": pieces})) as url:
        chunks = await collect(backend(url), ChatRequest((), prompt="x"))
    assert [chunk.text for chunk in chunks] == ["ab", ""]
    assert chunks[0].logprobs == (TokenLogprob("b", -1, -0.5, (["b", -1, -0.5], ["c", -1, -3])),)
    assert chunks[-1].finish_reason == "length"


async def test_thoughts_and_log_probabilities_are_read():
    token = {"token": "4", "logprob": -0.1, "top_logprobs": [{"token": "4", "logprob": -0.1}]}
    said = {"index": 0, "delta": {"content": "4"}, "logprobs": {"content": [token]}}
    thoughts = (delta(reasoning_content="2 and "), delta(reasoning="2"))
    with serving(stream(*thoughts, {"choices": [said]}, delta(finish="stop"))) as url:
        chunks = await collect(backend(url))
    assert [chunk.reasoning for chunk in chunks] == ["2 and ", "2", "", ""]
    assert chunks[2].logprobs == (TokenLogprob("4", -1, -0.1, (["4", -1, -0.1],)),)


async def test_calls_get_ids_and_their_own_reason_where_the_server_gives_none():
    call = {"function": {"name": "now", "arguments": "{}"}}
    with serving(stream(delta(tool_calls=[call, call]), delta(finish="stop"))) as url:
        last = (await collect(backend(url)))[-1]
    assert last.finish_reason == "tool_calls"
    ids = {call.id for call in last.tool_calls}
    assert len(ids) == 2
    assert all(id.startswith("call_") for id in ids)


async def test_an_answer_that_says_why_it_ended_needs_no_other_end():
    with serving(stream(delta(content="x"), delta(finish="stop"), done=False)) as url:
        assert (await collect(backend(url)))[-1].finish_reason == "stop"


FORMS = {
    "regex": {"type": "regex", "regex": "a+"},
    "choice": {"type": "choice", "choice": ["a.b", "c"]},
    "grammar": {"type": "grammar", "grammar": "start: A"},
}


@pytest.mark.parametrize(
    ("dialect", "form", "key", "value"),
    [
        ("openai", "regex", "response_format", FORMS["regex"]),
        ("vllm", "regex", "structured_outputs", {"regex": "a+"}),
        ("vllm", "choice", "structured_outputs", {"choice": ["a.b", "c"]}),
        ("vllm", "grammar", "structured_outputs", {"grammar": "start: A"}),
        ("sglang", "regex", "regex", "a+"),
        ("sglang", "choice", "regex", r"a\.b|c"),
        ("llama_cpp", "choice", "grammar", 'root ::= "a.b" | "c"'),
    ],
)
async def test_forms_are_said_in_the_servers_own_words(dialect: str, form: str, key: str, value: Any):
    body = await sent(ChatRequest(ASK.messages, response_format=FORMS[form]), dialect=dialect)
    assert body[key] == value
    assert (key == "response_format") == ("response_format" in body)


@pytest.mark.parametrize(
    ("dialect", "more"),
    [
        ("sglang", {"response_format": FORMS["grammar"]}),
        ("llama_cpp", {"response_format": FORMS["regex"]}),
        ("llama_cpp", {"sampling": Sampling(stop_token_ids=(1,))}),
        ("transformers", {"response_format": {"type": "json_object"}}),
        ("transformers", {"tools": EVERYTHING.tools, "tool_choice": "required"}),
    ],
)
async def test_what_a_server_would_pass_over_is_refused(dialect: str, more: dict[str, Any]):
    with pytest.raises(InvalidInput):
        await collect(backend("http://127.0.0.1:9/v1", dialect=dialect), ChatRequest(ASK.messages, **more))


async def test_llama_cpps_own_word_for_a_penalty():
    request = ChatRequest(ASK.messages, sampling=Sampling(repetition_penalty=1.5))
    body = await sent(request, dialect="llama_cpp")
    assert (body["repeat_penalty"], "repetition_penalty" in body) == (1.5, False)


async def test_llama_cpp_has_no_names_for_a_choice_of_tools():
    tools = (*EVERYTHING.tools, ToolSpec("other", "does too", {"type": "object"}))
    body = await sent(ChatRequest(ASK.messages, tools=tools, tool_choice="other"), dialect="llama_cpp")
    assert body["tool_choice"] == "required"
    assert [tool["function"]["name"] for tool in body["tools"]] == ["other"]


@pytest.mark.parametrize(
    ("listed", "window"),
    [
        ([{"id": "other", "max_model_len": 5}, {"id": "m", "max_model_len": 4096}], 4096),
        ([{"id": "whatever", "meta": {"n_ctx": 2048}}], 2048),
        ([{"id": "a", "max_model_len": 5}, {"id": "b", "max_model_len": 6}], 8192),
        ([{"id": "m"}], 8192),
    ],
)
async def test_the_window_is_what_the_server_tells(listed: Any, window: int):
    with serving(stream(), {"/v1/models": {"data": listed}}) as url:
        assert (await backend(url).info()).context_window == window
        assert (await backend(url, context_window=77).info()).context_window == 77


async def test_tokens_are_counted_by_a_server_that_can():
    with serving(stream(), {"/tokenize": {"count": 42}}) as url:
        assert await backend(url).count_tokens(ASK.messages) == 42
    with serving(stream()) as url:
        made = backend(url)
        counts = [await made.count_tokens(ASK.messages) for _ in range(2)]
        assert counts == [4, 4]
        assert asked == ["/tokenize"], "it is not asked for what it does not know"


async def test_a_server_in_trouble_is_asked_again_later():
    now = 0.0
    with serving(stream(), {"/v1/models": 503}) as url:
        client = OpenAIClient("m", "m", url, now=lambda: now)
        assert [await client.window(), await client.window()] == [None, None]
        assert len(asked) == 1
        now = ASK_AGAIN_S
        assert await client.window() is None
        assert len(asked) == 2


@pytest.mark.parametrize(
    ("header", "told"), [("7", 7.0), ("", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)]
)
async def test_the_pause_that_a_server_asks_for_is_told(header: str, told: float | None):
    def busy(handler: Any, body: dict[str, Any]) -> None:
        handler.send_response(429)
        if header:
            handler.send_header("Retry-After", header)
        handler.end_headers()

    with serving(busy) as url, pytest.raises(RemoteModelError) as refused:
        await collect(backend(url))
    assert refused.value.retry_after_s == told
    assert pickle.loads(pickle.dumps(refused.value)).retry_after_s == told
