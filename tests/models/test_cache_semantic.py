"""Which questions have the answer to a like one, and for whom that is opened."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.context import LocalCallLog
from agents.recorded_model import RecordedModel
from agents.recording import Recorder
from manta.config import CacheSettings, load_settings
from manta.errors import InvalidConfig, InvalidGraph
from manta.graph import embed, parse_graph
from manta.messages import ChatChunk, ChatMessage, ChatRequest, Task, ToolCall, ToolSpec, Usage
from serve_app.models import meaning
from serve_app.models.cache.questions import MAX_BYTES, asked, firm_words
from tests.coordinator.conftest import start as start
from tests.coordinator.functions import Start, run
from tests.models.cache_support import (
    NOT_THERE,
    Broken,
    Counting,
    MadeUp,
    caching,
    chunks_of,
    question,
    real_embedder,
    text_of,
)

LIKE = CacheSettings(semantic=0.95)
OFF = CacheSettings()
HIGH, TALL, COLD = "Is it high?", "Is it tall?", "Is it cold?"


def embedder() -> MadeUp:
    """`HIGH` and `TALL` have a cosine of 0.99, `COLD` has 0.8 with the first."""
    return MadeUp({HIGH: (1, 0, 0), TALL: (0.99, 0.141, 0), COLD: (0.8, 0, 0.6)})


async def test_a_like_question_has_the_kept_answer_and_another_has_not():
    inner, vectors = Counting(), embedder()
    model = caching(inner, LIKE, embedder=vectors)
    for text in (HIGH, TALL, COLD, TALL):
        await chunks_of(model, question(text))
    assert [request.messages[0].content for request in inner.asked] == [HIGH, COLD]
    assert vectors.asked == [HIGH, TALL, COLD, TALL], "once for looking and keeping"
    stats = model.stats()
    assert stats["semantic"] == {"hits": 2, "misses": 2, "shared_hits": 0}
    assert stats["exact"] == {"hits": 0, "misses": 0, "shared_hits": 0}, "that level is off"


async def test_equal_questions_are_not_compared_where_the_exact_level_is_on():
    vectors = embedder()
    model = caching(Counting(), CacheSettings(exact=True, semantic=0.95), embedder=vectors)
    for text in (HIGH, HIGH, TALL):
        await chunks_of(model, question(text))
    assert vectors.asked == [HIGH, TALL]
    assert (model.stats()["exact"]["hits"], model.stats()["semantic"]["hits"]) == (1, 1)


@pytest.mark.parametrize(
    ("rules", "first", "second", "hits"),
    [
        (LIKE, {}, {}, 1),
        (OFF, {}, {}, 0),
        (OFF, {"run": "r", "semantic_cache": 0.95}, {"run": "s", "semantic_cache": 0.95}, 1),
        (LIKE, {"run": "r"}, {"run": "s"}, 0),
        (LIKE, {}, {"run": "s", "semantic_cache": 0.8}, 1),
        (OFF, {"run": "r", "semantic_cache": 0.8}, {"run": "s", "semantic_cache": 1.0}, 0),
        (OFF, {"run": "r", "semantic_cache": 0.95}, {"run": "s"}, 0),
        (OFF, {"semantic_cache": 0.95}, {"semantic_cache": 0.95}, 0),
    ],
    ids=[
        "the settings open it for calls without a run",
        "nobody opens it",
        "a graph opens it for its runs",
        "the settings do not open it for runs",
        "each by its own threshold",
        "a high threshold",
        "another graph does not open it",
        "a hint without a run says nothing",
    ],
)
async def test_who_opens_it(rules: CacheSettings, first: dict, second: dict, hits: int):
    model = caching(Counting(), rules, embedder=embedder())
    await chunks_of(model, question(HIGH, **first))
    await chunks_of(model, question(TALL, **second))
    assert model.stats()["semantic"]["hits"] == hits


@pytest.mark.parametrize(
    "fields",
    [
        {"tenant": "other"},
        {"before": (ChatMessage("system", "Be brief."),)},
        {"before": (ChatMessage("user", "a"), ChatMessage("assistant", "b"))},
        {"tools": (ToolSpec("t", "", {}),)},
        {"response_format": {"type": "json_object"}},
        {"max_tokens": 5},
        {"seed": 4},
    ],
    ids=str,
)
async def test_all_but_the_last_message_must_be_equal(fields: dict):
    inner = Counting()
    model = caching(inner, LIKE, embedder=embedder())
    await chunks_of(model, question(HIGH))
    await chunks_of(model, question(TALL, **fields))
    assert len(inner.asked) == 2
    await chunks_of(model, question(HIGH, **fields))
    assert len(inner.asked) == 2


async def test_answers_drawn_by_chance_are_kept_only_where_that_is_wanted():
    for sampled in (False, True):
        inner = Counting()
        model = caching(inner, CacheSettings(semantic=0.95, sampled=sampled), embedder=embedder())
        for text in (HIGH, TALL):
            await chunks_of(model, question(text, temperature=0.7))
        assert len(inner.asked) == (1 if sampled else 2)


CALLED = (
    ChatMessage("user", HIGH),
    ChatMessage("assistant", "", tool_calls=(ToolCall("1", "t", {}),)),
    ChatMessage("tool", "4 m", tool_call_id="1"),
)


@pytest.mark.parametrize(
    "request_",
    [
        ChatRequest(CALLED),
        ChatRequest((*CALLED, ChatMessage("user", HIGH))),
        ChatRequest((CALLED[2], ChatMessage("user", HIGH))),
        ChatRequest((ChatMessage("user", HIGH), ChatMessage("assistant", "It is"))),
        ChatRequest((), prompt=HIGH),
        ChatRequest((), prompt_ids=(1, 2)),
        ChatRequest(()),
        question(" \n"),
        question("x" * (MAX_BYTES + 1)),
        question("é" * MAX_BYTES),
        question(HIGH, response_format={"type": "regex", "regex": "a+"}),
        question(HIGH, response_format={"type": "choice", "choice": ["a"]}),
        question(HIGH, response_format={"type": "grammar", "grammar": "x"}),
    ],
    ids=lambda request: str(request)[:60],
)
async def test_some_questions_are_like_no_other(request_: ChatRequest):
    vectors = embedder()
    model = caching(Counting(), LIKE, embedder=vectors)
    for _ in range(2):
        await chunks_of(model, request_)
    assert (vectors.asked, model.stats()["kept"]) == ([], 0)


@pytest.mark.parametrize("form", [None, {"type": "text"}, {"type": "json_object"}, {"type": "json_schema"}])
def test_plain_forms_are_compared(form: dict | None):
    found = asked("local", 1, question(HIGH, response_format=form))
    assert found is not None
    assert found.text == HIGH


async def test_a_call_of_a_tool_is_no_answer_to_a_like_question():
    call = ChatChunk("", (ToolCall("1", "t", {}),), "tool_calls", Usage(1, 1))
    inner = Counting([call])
    model = caching(inner, LIKE, embedder=embedder())
    for text in (HIGH, TALL):
        await chunks_of(model, question(text, tools=(ToolSpec("t", "", {}),)))
    assert (len(inner.asked), model.stats()["kept"]) == (2, 0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 2+3?", "What is 2+4?"),
        ("It is -5 degrees", "It is 5 degrees"),
        ("Is it safe?", "Is it not safe?"),
        ("Can I?", "Can't I?"),
        ("Is C++ fast?", "Is C# fast?"),
        ("Что это?", "Кто это?"),
        ("Mail ann@example.com", "Mail bob@example.com"),
    ],
)
def test_numbers_signs_and_negations_must_be_equal(one: str, other: str):
    assert firm_words(one) != firm_words(other)
    first, second = (asked("local", 1, question(text)) for text in (one, other))
    assert first is not None
    assert second is not None
    assert first.scope != second.scope


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I reset my password?", "how can I reset my (well-known) password"),
        ("I don’t know 3 of them.", "Of 'them' I don't… 3"),
    ],
)
def test_other_words_may_differ(one: str, other: str):
    assert sorted(firm_words(one)) == sorted(firm_words(other))


@given(st.text())
def test_any_text_is_read(text: str):
    assert firm_words(text) == firm_words(text + " ")


@pytest.mark.parametrize(
    "how",
    [NOT_THERE, "silent", [], [[0.0, 0.0, 0.0]], [[float("nan")] * 3], [[1.0], [1.0]], [1.0]],
    ids=str,
)
async def test_without_a_meaning_the_model_is_asked(monkeypatch: pytest.MonkeyPatch, how: Any):
    monkeypatch.setattr("serve_app.models.cache.model.EMBED_S", 0.01)
    inner, broken = Counting(), Broken(how)
    model = caching(inner, LIKE, embedder=broken)
    for _ in range(2):
        assert await text_of(model, question(HIGH)) == "The tide is high."
    assert (len(inner.asked), broken.asked) == (2, 2)
    assert model.stats()["embedder_failures"] == 2
    assert model.stats()["kept"] == 0
    assert meaning.EMBED_S == 2.0


async def test_without_a_meaning_the_exact_level_goes_on():
    inner = Counting()
    model = caching(inner, CacheSettings(exact=True, semantic=0.9), embedder=Broken(NOT_THERE))
    for _ in range(2):
        await chunks_of(model, question(HIGH))
    assert len(inner.asked) == 1


SAID = {
    "How do I reset my password?": "How do I reset my password?",
    "How can I reset my password?": "How do I reset my password?",
    "How do I delete my password?": "How do I delete my password?",
    "What is the capital of France?": "What is the capital of France?",
    "Which city is the capital of France?": "What is the capital of France?",
    "What is the capital of Germany?": "What is the capital of Germany?",
    "When does the shop open?": "When does the shop open?",
    "When does the shop close?": "When does the shop close?",
    "Is aspirin safe for children?": "Is aspirin safe for children?",
    # Its danger, which the page tells of.
    "Is aspirin unsafe for children?": "Is aspirin safe for children?",
}
"""Questions, and whose answer each has."""


async def test_the_real_embedder_knows_a_question_in_other_words():
    inner = Counting(lambda request: [ChatChunk(request.messages[0].content, (), "stop", Usage(1, 1))])
    model = caching(inner, CacheSettings(semantic=0.92), embedder=real_embedder(SAID))
    assert {text: await text_of(model, question(text)) for text in SAID} == SAID


GRAPH: dict[str, Any] = {
    "steps": [{"id": "s", "prompt": "hi"}, {"id": "t", "graph": {"steps": [{"id": "x", "prompt": "y"}]}}]
}


def test_a_graph_that_does_not_open_it_is_the_graph_it_was():
    """Its version is what it was before there was the field, in runs that began then too."""
    graph = parse_graph({"name": "a", **GRAPH})
    assert graph.version == "e2ab2f7b67e0"
    assert parse_graph(embed(graph, {}).plain).version == graph.version
    opened = parse_graph({"name": "a", "semantic_cache": 0.9, **GRAPH})
    assert opened.version != graph.version
    assert parse_graph(opened.plain).semantic_cache == 0.9


@pytest.mark.parametrize("value", [0.79, 1.01, "much", True])
def test_a_threshold_that_would_answer_anything_is_refused(value: Any, tmp_path: Path):
    if value is not True:
        with pytest.raises(InvalidGraph, match="semantic_cache"):
            parse_graph({"name": "a", "semantic_cache": value, **GRAPH})
    file = tmp_path / "manta.yaml"
    file.write_text(f"models: {{smollm2: {{cache: {{semantic: {0.5 if value is True else value}}}}}}}")
    with pytest.raises(InvalidConfig, match="semantic"):
        load_settings(file, {})


async def test_a_runs_tasks_say_what_its_graph_opens(start: Start):
    def tell(task: Task) -> Any:
        return task.hints.semantic_cache

    inner = {"id": "in", "graph": {"semantic_cache": 0.8, "steps": [{"id": "x", "agent": "tell"}]}}
    graph = {"steps": [{"id": "out", "agent": "tell"}, inner], "output": ["${steps.out}", "${steps.in}"]}
    service, runtime = await start({**graph, "semantic_cache": 0.95}, {"tell": tell})
    assert (await run(service)).output == [0.95, 0.95]
    inner_model = Counting()
    await chunks_of(
        RecordedModel(inner_model, Recorder(LocalCallLog(), runtime.tasks[0]), "local"), question()
    )
    assert inner_model.asked[0].hints.semantic_cache == 0.95, "and so do the calls of its models"
    service, _ = await start(graph, {"tell": tell})
    assert (await run(service)).output == [None, None]
