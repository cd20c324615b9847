"""Who answers when a model does not, in which order, and what the caller is told when nobody does."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest
import yaml

from agents.context import LocalCallLog
from agents.recorded_model import RecordedModel, RetryPolicy
from agents.recording import Recorder
from manta.config import Settings, load_settings
from manta.errors import (
    ContextLengthExceeded,
    InvalidConfig,
    InvalidInput,
    MantaError,
    ModelError,
    ModelLoadError,
    Overloaded,
    RemoteModelError,
    ReplicaLost,
    RunCancelled,
    Unavailable,
)
from manta.messages import ChatChunk
from serve_app.models.calls.breaker import BreakerRules
from serve_app.models.calls.faults import another_may_answer, counts_against_model
from serve_app.models.calls.retry import RetryRules
from serve_app.models.calls.rules import CallRules, chain
from tests.agents.loop_support import task
from tests.models.support import OwnTime, Told, ask, link, resilient, text_of

ONCE = RetryRules(attempts=1)
THREE = BreakerRules(failures=3, share=0.5, window_s=60.0, pause_s=30.0)


def test_a_chain_has_each_fallback_with_its_own_behind_it_and_everyone_once():
    fallbacks = {"a": ("b", "c"), "b": ("d", "c"), "d": ("e",)}
    assert chain("a", fallbacks) == ("a", "b", "d", "e", "c")
    assert chain("c", fallbacks) == ("c",)


async def test_the_next_is_asked_after_all_tries_and_in_order():
    clock = OwnTime()
    first, second, third = Told(ModelError("x")), Told(RemoteModelError("y")), Told("from c")
    links = [link(name, model, clock) for name, model in zip("abc", (first, second, third), strict=True)]
    made = resilient(clock, *links)
    assert await text_of(made) == "from c"
    assert (first.asked, second.asked, third.asked) == (3, 3, 1)
    assert made.calls()["answered_by"] == {"c": 1}


async def test_an_answer_that_has_begun_is_not_begun_again_elsewhere():
    clock, other = OwnTime(), Told("never heard")
    made = resilient(clock, link("a", Told(("half", ModelError("gone"))), clock), link("b", other, clock))
    with pytest.raises(ModelError, match="gone"):
        await text_of(made)
    assert other.asked == 0


async def test_an_open_breaker_sends_calls_on_at_once_until_a_probe_answers():
    clock = OwnTime()
    first, other = Told(*[ModelError("x")] * 3, "from a"), Told("from b")
    links = [link("a", first, clock, retry=ONCE, breaker=THREE), link("b", other, clock)]
    made = resilient(clock, *links)
    assert [await text_of(made) for _ in range(5)] == ["from b"] * 5
    assert (first.asked, made.calls()["breaker"]) == (3, "open")
    await clock.sleep(30)
    assert [await text_of(made) for _ in range(2)] == ["from a"] * 2
    assert made.calls()["breaker"] == "closed"


async def test_without_a_fallback_an_open_breaker_is_told_with_the_time_to_wait():
    clock, model = OwnTime(), Told(ModelError("x"))
    made = resilient(clock, link("a", model, clock, breaker=THREE))
    with pytest.raises(ModelError):
        await text_of(made)
    with pytest.raises(Unavailable) as refused:
        await text_of(made)
    assert (refused.value.code, refused.value.retry_after_s) == ("model_unavailable", 30)
    assert model.asked == 3


async def test_a_breaker_that_opens_during_a_call_leaves_it_its_own_error():
    clock, model = OwnTime(), Told(ModelError("the cause"))
    made = resilient(clock, link("a", model, clock, breaker=BreakerRules(failures=2)))
    with pytest.raises(ModelError, match="the cause"):
        await text_of(made)
    assert model.asked == 2


@pytest.mark.parametrize(
    ("error", "counts", "goes_on"),
    [
        (ModelError("x"), True, True),
        (RemoteModelError("x"), True, True),
        (ModelLoadError("x"), True, True),
        (RemoteModelError("x", code="remote_model_unauthorized"), True, True),
        (MantaError("x", code="internal_error"), True, True),
        (ReplicaLost("x"), False, True),
        (Overloaded("x"), False, True),
        (Unavailable("x", code="overloaded"), False, True),
        (InvalidInput("x"), False, False),
        (ContextLengthExceeded("x"), False, False),
        (RunCancelled("x"), False, False),
    ],
    ids=lambda value: getattr(value, "code", None),
)
async def test_whose_fault_an_error_is(error: MantaError, counts: bool, goes_on: bool):
    assert counts_against_model(error) == counts
    assert another_may_answer(error, fallback=False, on_length=False) == goes_on
    clock, other = OwnTime(), Told("from b")
    first = link("a", Told(error), clock, retry=ONCE, breaker=BreakerRules(failures=1))
    made = resilient(clock, first, link("b", other, clock))
    if goes_on:
        assert await text_of(made) == "from b"
    else:
        with pytest.raises(type(error)):
            await text_of(made)
        assert other.asked == 0
    assert first.breaker.state == ("open" if counts else "closed")


@pytest.mark.parametrize("on_length", [True, False])
async def test_too_long_a_prompt_goes_on_only_where_that_is_wanted(on_length: bool):
    clock = OwnTime()
    links = [link("a", Told(ContextLengthExceeded("long")), clock), link("b", Told("from b"), clock)]
    made = resilient(clock, *links, on_length=on_length)
    if on_length:
        assert await text_of(made) == "from b"
        return
    with pytest.raises(ContextLengthExceeded):
        await text_of(made)


async def test_what_a_fallback_cannot_take_is_not_the_callers_fault():
    clock = OwnTime()
    first = link("a", Told(ModelError("the cause")), clock, retry=ONCE)
    shorter, plainer = Told(ContextLengthExceeded("long")), Told(InvalidInput("no grammars"))
    made = resilient(clock, first, link("b", shorter, clock), link("c", plainer, clock))
    with pytest.raises(ModelError, match="the cause"):
        await text_of(made)
    assert (shorter.asked, plainer.asked) == (1, 1)


async def test_an_error_that_may_pass_is_told_rather_than_one_that_does_not():
    clock = OwnTime()
    links = [link("a", Told(ContextLengthExceeded("long")), clock), link("b", Told(ModelError("y")), clock)]
    with pytest.raises(ModelError, match="y"):
        await text_of(resilient(clock, *links, on_length=True))


async def test_nobody_is_asked_after_the_deadline():
    clock, other = OwnTime(), Told("from b")

    class Slow(Told):
        async def count_down(self) -> None:
            await clock.sleep(10)

        async def stream(self, request):
            await self.count_down()
            async with aclosing(super().stream(request)) as chunks:
                async for chunk in chunks:
                    yield chunk

    made = resilient(clock, link("a", Slow(ModelError("x")), clock), link("b", other, clock))
    with pytest.raises(ModelError):
        await text_of(made, ask(deadline=clock.now() + 5))
    assert other.asked == 0


async def test_closing_early_closes_the_model_that_answers_and_is_no_failure():
    clock, model = OwnTime(), Told("one two three")
    first = link("a", Told(ModelError("x")), clock, retry=ONCE)
    made = resilient(clock, first, link("b", model, clock, breaker=BreakerRules(failures=1)))
    chunks = made.stream(ask())
    assert (await anext(chunks)).text == "one"
    await chunks.aclose()
    assert model.closed == 1
    assert made._links[1].breaker.state == "closed"


async def test_a_caller_that_leaves_before_the_first_chunk_gives_the_probe_back():
    clock, never = OwnTime(), asyncio.Event()

    class Silent(Told):
        async def stream(self, request):
            if self.asked:
                await never.wait()
            async with aclosing(super().stream(request)) as chunks:
                async for chunk in chunks:
                    yield chunk

    made = resilient(clock, link("a", Silent(ModelError("x")), clock, retry=ONCE, breaker=BreakerRules(1)))
    with pytest.raises(ModelError):
        await text_of(made)
    await clock.sleep(60)
    call = asyncio.ensure_future(text_of(made))
    while made.calls()["breaker"] != "half_open":
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert made.calls()["breaker"] == "open"
    never.set()
    with pytest.raises(ModelError):
        await text_of(made)


async def test_an_agents_tries_and_these_do_not_multiply():
    async def tries(fallback: bool) -> list[int]:
        clock = OwnTime()
        models = [Told(ModelError("x")), Told(ModelError("y"))][: 2 if fallback else 1]
        rules = BreakerRules(failures=5, pause_s=1000.0)
        links = [link(str(n), model, clock, breaker=rules) for n, model in enumerate(models)]
        recorder = Recorder(LocalCallLog(), task(1))
        policy = RetryPolicy(3, 1.0, 8.0)
        model = RecordedModel(resilient(clock, *links), recorder, "0", clock=clock, retry=policy)
        with pytest.raises(MantaError):
            await text_of(model)
        return [model.asked for model in models]

    assert await tries(fallback=False) == [3]
    # Where all are down, the breakers end it.
    assert await tries(fallback=True) == [5, 3]


async def test_a_stream_passes_through_unchanged_and_info_is_the_first_models():
    clock, model = OwnTime(), Told("one two", window=70)
    made = resilient(clock, link("a", model, clock), link("b", Told("x", window=10), clock))
    chunks: list[ChatChunk] = [chunk async for chunk in made.stream(ask())]
    assert [chunk.text for chunk in chunks] == ["one", "two", ""]
    assert chunks[-1].usage is not None
    assert (await made.info()).context_window == 70
    assert await made.count_tokens(()) == 7


def test_settings_become_rules():
    big = {"fallbacks": ["smollm2"], "retry": {"attempts": 2}, "breaker": {"failures": 0}}
    settings = Settings.model_validate({"models": {"big": big}})
    assert CallRules.of(settings.models["smollm2"]) == CallRules()
    assert CallRules.of(settings.models["big"]) == CallRules(
        RetryRules(attempts=2), BreakerRules(failures=0), ("smollm2",)
    )


@pytest.mark.parametrize(
    ("models", "cause"),
    [
        ({"big": {"fallbacks": ["none"]}}, "there is no model 'none'"),
        ({"big": {"fallbacks": ["smollm2", "smollm2"]}}, "names a model twice"),
        ({"big": {"fallbacks": ["big"]}}, "leads back to big"),
        ({"a": {"fallbacks": ["b"]}, "b": {"fallbacks": ["smollm2", "a"]}}, "leads back to a"),
        ({"big": {"retry": {"attempts": 0}}}, "attempts"),
        ({"big": {"retry": {"max_delay_s": 0.1}}}, "must be at least retry.first_delay_s"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, models: dict, cause: str):
    file = tmp_path / "manta.yaml"
    file.write_text(yaml.safe_dump({"models": models}))
    with pytest.raises(InvalidConfig, match=cause):
        load_settings(file, {})
