"""OpenAI's own client against the gateway over HTTP, with the real small model behind it."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field

from tests.strangers.conftest import MODEL

QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def api(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=120) as made:
        yield made


def test_chat_and_its_stream_say_the_same(api: openai.OpenAI):
    asked: dict[str, Any] = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 12}
    whole = api.chat.completions.create(**asked)
    assert "Paris" in (whole.choices[0].message.content or "")
    pieces = list(api.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    said = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert said == whole.choices[0].message.content
    assert pieces[-1].usage is not None
    assert whole.usage is not None
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens


class City(BaseModel):
    name: str = Field(max_length=20)
    capital: bool


def test_a_schema_is_kept_to(api: openai.OpenAI):
    parsed = api.chat.completions.parse(
        model=MODEL, messages=QUESTION, response_format=City, temperature=0, max_tokens=60
    )
    assert isinstance(parsed.choices[0].message.parsed, City)


def test_a_tool_that_is_required_is_called_with_arguments_that_fit(api: openai.OpenAI):
    tool: Any = openai.pydantic_function_tool(City, name="note_city")
    answer = api.chat.completions.create(
        model=MODEL, messages=QUESTION, tools=[tool], tool_choice="required", temperature=0, max_tokens=80
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    calls: Any = answer.choices[0].message.tool_calls
    assert calls[0].function.name == "note_city"
    City.model_validate(json.loads(calls[0].function.arguments))


def test_a_raw_completion(api: openai.OpenAI):
    answer = api.completions.create(
        model=MODEL, prompt=["One, two, three,", "Monday, Tuesday,"], temperature=0, max_tokens=4, logprobs=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert "four" in answer.choices[0].text
    assert answer.choices[0].logprobs is not None
    assert "".join(answer.choices[0].logprobs.tokens or []) == answer.choices[0].text


def test_the_events_of_a_response(api: openai.OpenAI):
    with api.responses.stream(
        model=MODEL, input="What is the capital of France?", temperature=0, max_output_tokens=12
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")
    assert "Paris" in final.output_text


def test_several_answers_differ_and_can_be_had_again(api: openai.OpenAI):
    asked: dict[str, Any] = {"model": MODEL, "messages": QUESTION, "n": 3, "seed": 1, "max_tokens": 8}
    first, second = (api.chat.completions.create(**asked, temperature=1.5) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert len(set(texts)) > 1
    assert texts == [choice.message.content for choice in second.choices]


def test_embeddings(api: openai.OpenAI):
    answer = api.embeddings.create(model="all-minilm-l6-v2", input=["a", "b"])
    assert [item.index for item in answer.data] == [0, 1]
    assert len(answer.data[0].embedding) == len(answer.data[1].embedding) > 0
