"""The model routes as the official `openai` client sees them."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from tests.live.conftest import LivePlatform

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def api(platform: LivePlatform) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{platform.url}/v1", api_key="none", max_retries=0)


def test_models_are_listed(api: openai.OpenAI):
    names = {model.id for model in api.models.list()}
    assert {"smollm2", "slow", "all-minilm-l6-v2"} <= names
    assert api.models.retrieve("smollm2").owned_by == "manta"
    with pytest.raises(openai.NotFoundError) as missing:
        api.models.retrieve("none")
    assert missing.value.code == "model_not_found"


def test_a_completion_has_text_finish_reason_and_usage(api: openai.OpenAI):
    answer = api.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0, max_tokens=20)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 8


def test_a_stream_is_the_same_text_in_pieces(api: openai.OpenAI):
    whole = api.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0, max_tokens=20)
    stream = api.chat.completions.create(
        model="smollm2",
        messages=QUESTION,
        temperature=0,
        max_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert len([c for c in chunks if c.choices]) > 3
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_stop_and_max_tokens(api: openai.OpenAI):
    short = api.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0, max_tokens=2)
    assert short.choices[0].finish_reason == "length"
    assert short.usage.completion_tokens == 2
    stopped = api.chat.completions.create(
        model="smollm2", messages=QUESTION, temperature=0, max_tokens=20, stop=[" Paris"]
    )
    assert stopped.choices[0].finish_reason == "stop"
    assert "Paris" not in stopped.choices[0].message.content


def test_embeddings_are_unit_vectors_that_tell_meaning(api: openai.OpenAI):
    answer = api.embeddings.create(model="all-minilm-l6-v2", input=["a cat", "a kitten", "tax law"])
    cat, kitten, law = (item.embedding for item in answer.data)
    assert len(cat) == 384
    assert sum(x * x for x in cat) == pytest.approx(1, abs=1e-3)
    assert _dot(cat, kitten) > _dot(cat, law) + 0.2


def test_embeddings_of_several_callers_share_passes(platform: LivePlatform, api: openai.OpenAI):
    def counted() -> dict[str, int]:
        (replica,) = httpx.get(f"{platform.url}/models/all-minilm-l6-v2/replicas").json()
        return replica

    before = counted()
    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(
            lambda n: api.embeddings.create(model="all-minilm-l6-v2", input=f"text {n}"), range(48)
        )
        tokens = sum(answer.usage.prompt_tokens for answer in answers)
    after = counted()
    assert after["texts"] - before["texts"] == 48
    assert after["passes"] - before["passes"] < 48
    assert after["tokens"] - before["tokens"] == tokens > 48 * 3


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"messages": []}, "invalid_value"),
        ({"max_tokens": 0}, "invalid_value"),
        ({"temperature": 9}, "invalid_value"),
        ({"n": 9}, "invalid_value"),
        ({"extra_body": {"unheard_of": 1}}, "unknown_parameter"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "invalid_value"),
        ({"messages": [{"role": "user", "content": "word " * 20_000}]}, "context_length_exceeded"),
    ],
)
def test_refusals_have_openais_shape(api: openai.OpenAI, change: dict, code: str):
    with pytest.raises(openai.BadRequestError) as refused:
        api.chat.completions.create(**{"model": "smollm2", "messages": QUESTION, **change})
    assert refused.value.code == code
    assert refused.value.type == "invalid_request_error"


def test_several_answers_and_raw_completions(api: openai.OpenAI):
    several = api.chat.completions.create(model="smollm2", messages=QUESTION, n=3, seed=1, max_tokens=8)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    raw = api.completions.create(model="smollm2", prompt="One, two, three,", temperature=0, max_tokens=4)
    assert "four" in raw.choices[0].text


def test_a_graph_streams_its_progress_before_its_answer(api: openai.OpenAI):
    stream = api.chat.completions.create(model="manta/chain", messages=QUESTION, stream=True)
    deltas = [chunk.choices[0].delta for chunk in stream]
    told = [getattr(delta, "reasoning_content", None) for delta in deltas]
    first_text = next(index for index, delta in enumerate(deltas) if delta.content)
    assert any(text and "ask: started" in text for text in told[:first_text])
    response = api.responses.create(model="manta/chain", input="What is the capital of France?")
    assert response.output_text
