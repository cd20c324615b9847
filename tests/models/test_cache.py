"""Which answers are kept and given again, what of them is told, and for whom."""

import dataclasses
from typing import Any

import pytest

from agents.context import LocalCallLog
from agents.recorded_model import RecordedModel
from agents.recording import Recorder
from coordinator.store.key_records import Spent
from manta.clock import ManualClock
from manta.config import CacheSettings
from manta.errors import ModelError
from manta.messages import ChatChunk, ChatMessage, ChatRequest, TokenLogprob, ToolCall, ToolSpec, Usage
from manta.sampling import Sampling
from serve_app.gateway.access.metered import MeteredModel
from serve_app.models.cache.answers import packed, unpacked
from serve_app.models.cache.questions import asked
from tests.agents.loop_support import task
from tests.models.cache_support import ANSWER, Counting, caching, chunks_of, question, text_of

TOOL = ToolSpec("tide", "The tide", {"type": "object"})


def end(finish: str = "stop", by: str = "", choice: int = 0, usage: Usage | None = Usage(1, 1)) -> ChatChunk:
    return ChatChunk(finish_reason=finish, usage=usage, by=by, choice=choice)


async def test_an_equal_request_is_answered_without_the_model_and_for_nothing():
    inner = Counting()
    model = caching(inner)
    first = await chunks_of(model, question())
    assert tuple(first) == ANSWER, "an answer passes through as it is"
    (hit,) = await chunks_of(model, question())
    assert len(inner.asked) == 1
    assert hit == ChatChunk(
        "The tide is high.", finish_reason="stop", usage=Usage(7, 4, 7, cost_micros=0), by="local@1"
    )
    stats = model.stats()
    assert stats["exact"] == {"hits": 1, "misses": 1, "shared_hits": 0}
    assert (stats["kept"], stats["evicted"], stats["answers"]) == (1, 0, 1)
    assert stats["bytes"] > len("The tide is high.")


async def test_nothing_is_kept_unless_that_is_wanted():
    inner = Counting()
    model = caching(inner, CacheSettings())
    for _ in range(2):
        await chunks_of(model, question())
    assert len(inner.asked) == 2
    assert model.stats()["exact"] == {"hits": 0, "misses": 0, "shared_hits": 0}


@pytest.mark.parametrize(
    ("fields", "sampled", "kept"),
    [
        ({"temperature": 0.0}, False, True),
        ({"temperature": 0.7, "seed": 3}, False, True),
        ({"temperature": 0.7, "seed": 0}, False, True),
        ({"temperature": 0.7}, False, False),
        ({"temperature": 0.7}, True, True),
    ],
)
async def test_only_the_models_own_choice_is_kept(fields: dict, sampled: bool, kept: bool):
    inner = Counting()
    model = caching(inner, CacheSettings(exact=True, sampled=sampled))
    for _ in range(2):
        await chunks_of(model, question(**fields))
    assert len(inner.asked) == (1 if kept else 2)


OTHERS = {
    "tenant": {"tenant": "other"},
    "text": {"text": "How low is it?"},
    "system": {"before": (ChatMessage("system", "Be brief."),)},
    "tools": {"tools": (TOOL,)},
    "tool_choice": {"tools": (TOOL,), "tool_choice": "none"},
    "temperature": {"temperature": 0.5, "seed": 1},
    "top_p": {"top_p": 0.9},
    "max_tokens": {"max_tokens": 3},
    "stop": {"stop": (".",)},
    "seed": {"seed": 2},
    "form": {"response_format": {"type": "json_object"}},
    "prompt": {"prompt": "raw"},
    "logprobs": {"logprobs": 2},
    "n": {"n": 2},
    "sampling": {"sampling": Sampling(top_k=3)},
}


@pytest.mark.parametrize("fields", OTHERS.values(), ids=OTHERS)
async def test_whatever_else_differs_is_another_question(fields: dict):
    inner = Counting(lambda request: [end(choice=n) for n in range(request.n)])
    model = caching(inner)
    await chunks_of(model, question())
    await chunks_of(model, question(**fields))
    assert len(inner.asked) == 2


async def test_what_does_not_change_an_answer_does_not_tell_requests_apart():
    inner = Counting()
    model = caching(inner)
    await chunks_of(model, question(run="r1", priority=3, deadline=5.0, user="ann"))
    await chunks_of(model, question(run="r2", attained_tokens=7, epoch=2, model="local"))
    assert len(inner.asked) == 1


async def test_each_model_and_each_version_has_its_own():
    version = 1
    inner = Counting([ChatChunk("hi"), end()])
    model = caching(inner, version_of=lambda request: version)
    other = caching(inner, name="other", answers=model._answers)
    await chunks_of(model, question())
    version = 2
    await chunks_of(model, question())
    await chunks_of(other, question())
    assert len(inner.asked) == 3
    assert (await model.info()).context_window == await model.count_tokens([0] * 100)
    version = 1
    (hit,) = await chunks_of(model, question())
    assert (len(inner.asked), hit.by) == (3, "local@1")


@pytest.mark.parametrize(
    "chunks",
    [
        [ChatChunk("cut off")],
        [ChatChunk("no usage"), end(usage=None)],
        [ChatChunk("no end"), end(finish="")],
        [ChatChunk("filtered"), end(finish="content_filter")],
        [ChatChunk("from another", by="spare@1"), end(by="spare@1")],
        [ChatChunk("half", by="local@1"), end(by="spare@1")],
        [ChatChunk("who knows", by="local"), end(by="local")],
        [ChatChunk("too many"), ChatChunk("more", choice=1), end()],
    ],
    ids=lambda chunks: chunks[0].text,
)
async def test_what_is_no_whole_answer_of_this_model_is_not_kept(chunks: list[ChatChunk]):
    inner = Counting(chunks)
    model = caching(inner)
    assert await chunks_of(model, question()) == chunks
    await chunks_of(model, question())
    assert (len(inner.asked), model.stats()["kept"]) == (2, 0)


async def test_an_answer_is_kept_for_the_version_that_gave_it():
    """Where chance chooses, or the primary version stands in for a canary, it need not be the one expected."""
    asked = 1
    model = caching(Counting([ChatChunk("hi", by="local@2"), end(by="local@2")]), version_of=lambda r: asked)
    await chunks_of(model, question())
    assert model.stats()["kept"] == 1
    asked = 2
    (hit,) = await chunks_of(model, question())
    assert hit.by == "local@2"
    assert model.stats()["exact"] == {"hits": 1, "misses": 1, "shared_hits": 0}


async def test_an_error_goes_through_and_leaves_nothing():
    inner = Counting([ChatChunk("half"), ModelError("gone")])
    model = caching(inner)
    for _ in range(2):
        with pytest.raises(ModelError, match="gone"):
            await chunks_of(model, question())
    assert (len(inner.asked), model.stats()["answers"]) == (2, 0)


@pytest.mark.parametrize(("pieces", "kept"), [(1, False), (3, True)])
async def test_a_caller_that_leaves_after_the_last_chunk_has_had_all_of_it(pieces: int, kept: bool):
    inner = Counting()
    model = caching(inner)
    stream = model.stream(question())
    for _ in range(pieces):
        await anext(stream)
    await stream.aclose()
    await chunks_of(model, question())
    assert len(inner.asked) == (1 if kept else 2)


async def test_all_of_an_answer_is_given_again():
    logprob = TokenLogprob("a", 5, -0.25, (["a", 5, -0.25], ["\ud800", 6, float("-inf")]))
    chunks = [
        ChatChunk(reasoning="hm"),
        ChatChunk("a", logprobs=(logprob,)),
        ChatChunk("b", choice=1),
        ChatChunk("c", tool_calls=(ToolCall("1", "tide", {"at": ["x", 1.5, None]}),)),
        end("tool_calls", usage=None),
        end("length", choice=1, usage=Usage(3, 9)),
    ]
    model = caching(Counting(chunks))
    await chunks_of(model, question(n=2, logprobs=1))
    first, second = await chunks_of(model, question(n=2, logprobs=1))
    call = ToolCall("1", "tide", {"at": ["x", 1.5, None]})
    assert first == ChatChunk("ac", (call,), "tool_calls", None, "hm", (logprob,), 0, by="local@1")
    assert second == ChatChunk("b", (), "length", Usage(3, 9, 3), choice=1, by="local@1")


async def test_what_a_caller_does_to_an_answer_does_not_change_the_one_that_is_kept():
    model = caching(
        Counting([ChatChunk(tool_calls=(ToolCall("1", "tide", {"at": "x"}),)), end("tool_calls")])
    )
    await chunks_of(model, question())
    (hit,) = await chunks_of(model, question())
    hit.tool_calls[0].arguments["at"] = "changed"
    (hit,) = await chunks_of(model, question())
    assert hit.tool_calls[0].arguments == {"at": "x"}


async def test_time_is_up_for_an_answer():
    clock, inner = ManualClock(), Counting()
    model = caching(inner, CacheSettings(exact=True, ttl_s=60), clock=clock)
    await chunks_of(model, question())
    await clock.advance(59)
    await chunks_of(model, question())
    assert len(inner.asked) == 1
    await clock.advance(1)
    await chunks_of(model, question())
    assert len(inner.asked) == 2, "being used does not make it last longer"


async def test_an_answer_that_is_too_large_is_not_kept():
    inner = Counting([ChatChunk("x" * 30_000), end()])
    model = caching(inner, CacheSettings(exact=True, max_mb=0.02))
    for _ in range(2):
        await chunks_of(model, question())
    assert (len(inner.asked), model.stats()["bytes"]) == (2, 0)


@pytest.mark.parametrize("hostile", [float("nan"), float("inf")])
async def test_a_request_without_a_canonical_form_is_asked_each_time(hostile: float):
    inner = Counting()
    model = caching(inner, CacheSettings(exact=True, sampled=True))
    for _ in range(2):
        await chunks_of(model, question(temperature=hostile))
    assert len(inner.asked) == 2


async def test_odd_texts_are_told_apart_and_given_back():
    texts = ["", "\ud800", "\x00", "é", "e\u0301", "🌊" * 9]
    inner = Counting(lambda request: [ChatChunk(request.messages[0].content), end()])
    model = caching(inner)
    for _ in range(2):
        assert [await text_of(model, question(text)) for text in texts] == texts
    assert len(inner.asked) == len(texts)


async def test_a_model_that_was_removed_leaves_nothing():
    inner = Counting()
    model = caching(inner)
    await chunks_of(model, question())
    model._answers.forget("local")
    await chunks_of(model, question())
    assert len(inner.asked) == 2


class Charged:
    """An account that writes down what it is charged."""

    def __init__(self) -> None:
        self.spent: list[Spent] = []

    def reserve(self, spent: Spent) -> Spent:
        return spent

    def settle(self, reservation: Spent, spent: Spent) -> None:
        self.spent.append(spent)


async def test_a_hit_counts_against_a_keys_limits_and_costs_it_nothing():
    """Limits must not be got round by asking the same again."""
    account: Any = Charged()
    model = MeteredModel(caching(Counting()), account)
    for _ in range(2):
        await chunks_of(model, question())
    assert account.spent == [Spent(11, 900), Spent(11, 0)]


async def test_a_hit_costs_a_run_nothing():
    model = caching(Counting())
    usages = []
    for run in range(2):
        recorder = Recorder(LocalCallLog(), task(run + 1))
        recorded = RecordedModel(model, recorder, "local")
        usages.append((await chunks_of(recorded, question()))[-1].usage)
    assert [(usage.output_tokens, usage.cost_micros) for usage in usages] == [(4, 900), (4, 0)]


def test_what_a_later_release_kept_can_be_read():
    data = packed((dataclasses.replace(ANSWER[0], finish_reason="stop"),)).replace(
        b'{"text"', b'{"new":1,"text"'
    )
    assert unpacked(data)[0].text == "The tide "


def test_a_raw_prompt_is_a_question_too():
    raw = [ChatRequest((), prompt_ids=ids) for ids in ((1,), (1, 2))]
    keys = {found.key for request in raw if (found := asked("local", 1, request)) is not None}
    assert len(keys) == 2
