"""Raw completions: prompts of every kind, the order of choices, and the shapes of old."""

from typing import Any

import pytest

from tests.gateway.openai_support import USAGE, SaysChunks, client, text, token
from tests.gateway.platform import Local

PATH = "/v1/completions"


@pytest.fixture
async def said(said: tuple[Local, SaysChunks]) -> tuple[Local, SaysChunks]:
    """Its answer is cut off."""
    said[1].chunks = text("one ", "two", finish="length")
    return said


async def ask(said: tuple[Local, SaysChunks], status: int = 200, **fields: Any) -> Any:
    return await said[0].json("POST", PATH, status, json=fields)


async def test_prompts_of_every_kind_reach_the_model_as_they_are(said):
    for prompt in ("a", ["a", "b"], [1, 2], [[1], [2, 3]]):
        await ask(said, prompt=prompt)
    told = [(request.prompt, request.prompt_ids) for request in said[1].requests]
    assert told == [("a", ()), ("a", ()), ("b", ()), (None, (1, 2)), (None, (1,)), (None, (2, 3))]
    assert {(request.messages, request.max_tokens) for request in said[1].requests} == {((), 16)}


async def test_one_choice_for_each_prompt_and_answer_and_the_usage_of_all(said):
    whole = await ask(said, prompt=["a", "b"], n=2, best_of=2, echo=True, seed=4)
    assert [(c["index"], c["text"], c["finish_reason"]) for c in whole["choices"]] == [
        (0, "aone two", "length"),
        (1, "aone two", "length"),
        (2, "bone two", "length"),
        (3, "bone two", "length"),
    ]
    assert whole["object"] == "text_completion"
    assert (whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"]) == (6, 8)
    assert [(request.prompt, request.seed) for request in said[1].requests] == [
        ("a", 4),
        ("a", 5),
        ("b", 4),
        ("b", 5),
    ]


async def test_logprobs_have_the_shape_of_old(said):
    said[1].chunks = [token("a", -0.5), token("bc", -1.0), *text()]
    (choice,) = (await ask(said, prompt="x", logprobs=2))["choices"]
    assert choice["logprobs"] == {
        "tokens": ["a", "bc"],
        "token_logprobs": [-0.5, -1.0],
        "top_logprobs": [{"a": -0.5, "x": -3.0}, {"bc": -1.0, "x": -3.0}],
        "text_offset": [0, 1],
    }
    assert said[1].requests[0].logprobs == 2
    stream = await client(said[0]).completions.create(model="says", prompt="x", logprobs=1, stream=True)
    pieces = [piece.choices[0] async for piece in stream]
    assert [piece.logprobs.text_offset for piece in pieces if piece.logprobs] == [[0], [1], []]


async def test_a_stream_has_the_echo_first_and_the_usage_last(said):
    options: Any = {"include_usage": True}
    stream = await client(said[0]).completions.create(
        model="says", prompt=["a", "b"], echo=True, stream=True, stream_options=options
    )
    texts = {0: "", 1: ""}
    pieces = [piece async for piece in stream]
    for piece in pieces:
        for choice in piece.choices:
            texts[choice.index] += choice.text
    assert texts == {0: "aone two", 1: "bone two"}
    assert [piece.usage.completion_tokens for piece in pieces if piece.usage] == [2 * USAGE.output_tokens]


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({}, "missing_required_parameter", "prompt"),
    ({"prompt": []}, "invalid_value", "prompt"),
    ({"prompt": [[]]}, "invalid_value", "prompt[0]"),
    ({"prompt": ["a", 1]}, "invalid_type", "prompt[1]"),
    ({"prompt": "a", "suffix": "b"}, "unsupported_parameter", "suffix"),
    ({"prompt": "a", "n": 2, "best_of": 3}, "invalid_value", "best_of"),
    ({"prompt": "a", "logprobs": 6}, "invalid_value", "logprobs"),
    ({"prompt": [1], "echo": True}, "invalid_value", "echo"),
    ({"prompt": "a", "echo": True, "logprobs": 0}, "invalid_value", "echo"),
    ({"prompt": "a", "max_tokens": 0}, "invalid_value", "max_tokens"),
    ({"prompt": "a", "messages": []}, "unknown_parameter", "messages"),
    ({"prompt": "a", "model": "manta/echo"}, "invalid_value", "model"),
]


async def test_what_cannot_be_done_is_refused(said):
    for fields, code, param in REFUSED:
        error = (await ask(said, 400, **fields))["error"]
        assert (error["code"], error["param"]) == (code, param), fields
    assert not said[1].requests
