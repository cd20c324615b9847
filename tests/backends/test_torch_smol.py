"""The embedded model through its backend: weak as it is, what it is held to always holds."""

import json
from collections.abc import Iterator

import jsonschema
import pytest

from manta.config import ModelSettings
from manta.errors import ContextLengthExceeded, InvalidInput
from manta.messages import ChatMessage, ChatRequest, Sampling, ToolCall, ToolSpec
from serve_app.backends.torch_backend import TorchBackend
from tests.backends.torch_support import WEATHER, answer, asking, calls_of, text_of

SEARCH = ToolSpec(
    "search",
    "Search the web",
    {
        "type": "object",
        "properties": {
            "query": {"type": "string", "minLength": 2, "maxLength": 60},
            "limit": {"type": "integer", "minimum": 1, "maximum": 20},
            "sites": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 2},
        },
        "required": ["query"],
        "additionalProperties": False,
    },
)
TOOLS = {tool.name: tool for tool in (WEATHER, SEARCH)}


@pytest.fixture(scope="module")
def smol() -> Iterator[TorchBackend]:
    backend = TorchBackend("smol", ModelSettings(quantize="int8", kv_tokens=4096, threads=1))
    backend.start()
    yield backend
    backend.stop()


async def test_its_own_template_knows_no_tools(smol: TorchBackend):
    assert not smol.dialect.native
    assert not smol.dialect.thinks


@pytest.mark.parametrize(
    ("question", "more"),
    [
        ("What is the weather in Paris?", {}),
        ("Find the height of the Matterhorn.", {"temperature": 1.0, "seed": 3}),
        ("Find the height of the Matterhorn.", {"parallel_tool_calls": False}),
    ],
)
async def test_forced_calls_fit_their_tool(smol: TorchBackend, question: str, more: dict):
    request = asking(question, WEATHER, SEARCH, tool_choice="required", max_tokens=120, **more)
    chunks = await answer(smol, request)
    calls = calls_of(chunks)
    assert text_of(chunks) == ""
    for call in calls:
        jsonschema.validate(call.arguments, TOOLS[call.name].parameters)
    if chunks[-1].finish_reason == "tool_calls":
        assert calls
    else:
        assert chunks[-1].finish_reason == "length"
    assert len(calls) <= 1 or request.parallel_tool_calls


async def test_a_named_tool_is_called_whatever_is_asked(smol: TorchBackend):
    chunks = await answer(smol, asking("Hello!", WEATHER, SEARCH, tool_choice="search", max_tokens=120))
    assert [call.name for call in calls_of(chunks)] == ["search"]
    assert chunks[-1].finish_reason == "tool_calls"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.output_tokens > 0


async def test_a_result_is_read(smol: TorchBackend):
    messages = (
        ChatMessage("user", "What is the capital of Wakanda?"),
        ChatMessage("assistant", "", (ToolCall("call_1", "search", {"query": "capital of Wakanda"}),)),
        ChatMessage("tool", "The capital of Wakanda is Birnin Zana.", tool_call_id="call_1"),
    )
    request = ChatRequest(messages, tools=(SEARCH,), tool_choice="none", max_tokens=30)
    assert "Birnin Zana" in text_of(await answer(smol, request))


@pytest.mark.parametrize(
    "schema",
    [
        WEATHER.parameters,
        {
            "type": "object",
            "properties": {
                "facts": {"type": "array", "items": {"type": "string", "maxLength": 30}, "maxItems": 2}
            },
            "required": ["facts"],
            "additionalProperties": False,
        },
    ],
)
async def test_structured_output_fits(smol: TorchBackend, schema: dict):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    chunks = await answer(smol, asking("Tell me of Paris.", response_format=form, max_tokens=120))
    assert chunks[-1].finish_reason == "stop"
    jsonschema.validate(json.loads(text_of(chunks)), schema)


async def test_a_raw_prompt_is_continued_as_it_is(smol: TorchBackend):
    prompt = "The capital of France is"
    first = await answer(smol, ChatRequest((), prompt=prompt, max_tokens=4))
    assert text_of(first).startswith(" Paris")
    ids = tuple(smol.engine.encode(prompt))
    assert first[-1].usage is not None
    assert first[-1].usage.input_tokens == len(ids)
    again = await answer(smol, ChatRequest((), prompt_ids=ids, max_tokens=4))
    assert text_of(again) == text_of(first)
    with pytest.raises(InvalidInput):
        await answer(smol, ChatRequest((), prompt="", max_tokens=4))
    with pytest.raises(ContextLengthExceeded):
        await answer(smol, ChatRequest((), prompt_ids=(5,) * 5000, max_tokens=4))


async def test_logprobs_and_sampling_reach_the_engine(smol: TorchBackend):
    chunks = await answer(smol, asking("What is the capital of France?", logprobs=2, max_tokens=20))
    told = [entry for chunk in chunks for entry in chunk.logprobs]
    assert "".join(entry.text for entry in told) == text_of(chunks) == "The capital of France is Paris."
    assert all(entry.logprob <= 0 and entry.top[0][2] == entry.logprob for entry in told)
    forbidden = Sampling(logit_bias={str(told[0].token): -100.0})
    other = await answer(smol, asking("What is the capital of France?", sampling=forbidden, max_tokens=5))
    assert not text_of(other).startswith("The")
    ending = Sampling(stop_token_ids=(told[2].token,))
    cut = await answer(smol, asking("What is the capital of France?", sampling=ending, max_tokens=20))
    assert text_of(cut) == told[0].text + told[1].text


async def test_a_seed_repeats(smol: TorchBackend):
    async def drawn(seed: int) -> str:
        return text_of(await answer(smol, asking("A word?", temperature=1.5, seed=seed, max_tokens=4)))

    assert await drawn(1) == await drawn(1)
    assert await drawn(1) != await drawn(2)
