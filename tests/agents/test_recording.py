"""Calls are recorded, replayed and never made twice without need."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from agents.call_keys import messages_hash, request_body, request_hash
from agents.context import LocalCallLog
from agents.recorded_model import RecordedModel, RetryPolicy
from agents.recording import RecordedTools, Recorder
from agents.request_deltas import restore
from agents.scripted import ScriptedModel, ScriptedStep
from manta.clock import ManualClock
from manta.errors import (
    BlockedAddress,
    BudgetExceeded,
    ContextLengthExceeded,
    InvalidInput,
    ModelError,
    OutcomeUnknown,
    StaleEpoch,
    ToolError,
)
from manta.ids import StepKey
from manta.messages import (
    Budget,
    CallHints,
    CallIntent,
    CallOutcome,
    ChatChunk,
    ChatMessage,
    ChatRequest,
    Limit,
    ModelInfo,
    Price,
    RecordedCall,
    ToolCall,
    Usage,
    to_json,
)
from tests.agents.loop_support import STEP, Attempt, task


def ask(text: str, **fields: Any) -> ChatRequest:
    return ChatRequest((ChatMessage("user", text),), **fields)


async def text_of(model: RecordedModel, request: ChatRequest) -> str:
    return "".join([chunk.text async for chunk in model.stream(request)])


def recorded(inner: ScriptedModel, log: LocalCallLog, attempt: int = 1, **options: Any) -> RecordedModel:
    watched = {"observe": options.pop("observe")} if "observe" in options else {}
    recorder = Recorder(log, task(attempt, limits=options.pop("limits", ())), **watched)
    return RecordedModel(inner, recorder, "small", **options)


class Killed(BaseException):
    """The end of a process, as far as the code above can tell."""


class DyingLog(LocalCallLog):
    """Loses its process when it is told the n-th outcome."""

    def __init__(self, dies_at: int) -> None:
        super().__init__()
        self.left = dies_at

    async def finish(self, outcome: CallOutcome) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed
        await super().finish(outcome)


async def test_an_answer_is_streamed_assembled_and_recorded_before_its_last_chunk():
    log = LocalCallLog()
    call = ToolCall("c1", "search", {"q": "x"})
    model = recorded(ScriptedModel([ScriptedStep("hello", "one two three", (call,))]), log)
    states = []
    chunks = []
    async for chunk in model.stream(ask("hello")):
        chunks.append(chunk)
        states.append(log.calls(task().scope)[0].state)
    assert [c.text for c in chunks] == ["one ", "two ", "three", ""]
    assert states == ["intent", "intent", "intent", "done"]
    kept = log.calls(task().scope)[0]
    assert kept.response is not None
    assert kept.response["text"] == "one two three"
    assert kept.response["tool_calls"] == [{"id": "c1", "name": "search", "arguments": {"q": "x"}}]
    assert (kept.usage.model_calls, kept.usage.output_tokens) == (1, 3)


async def test_a_done_call_is_replayed_as_one_chunk_and_never_repeated():
    log = LocalCallLog()
    inner = ScriptedModel([ScriptedStep("hello", "one two", (ToolCall("c", "t", {}),))])
    await text_of(recorded(inner, log), ask("hello"))
    seen = []
    again = recorded(inner, log, attempt=2, observe=seen.append)
    chunks = [c async for c in again.stream(ask("hello"))]
    assert len(inner.requests) == 1
    assert [(c.text, c.finish_reason, c.tool_calls[0].id) for c in chunks] == [("one two", "tool_calls", "c")]
    assert chunks[0].usage is not None
    assert [(d.kind, d.replayed, d.usage.model_calls) for d in seen] == [("model", True, 1)]


async def test_hints_do_not_change_the_key_and_everything_else_does():
    base = ask("hello", model="small")
    same = ask("hello", model="small", hints=CallHints(attained_tokens=9, epoch=4))
    assert request_hash(request_body(base)) == request_hash(request_body(same))
    others = [
        ask("hello", temperature=0.5),
        ask("hello", stop=("x",)),
        ask("hello "),
        ask("hello", model="b"),
    ]
    assert len({request_hash(request_body(r)) for r in (base, *others)}) == 5


async def test_a_process_that_dies_after_two_calls_repeats_at_most_the_one_in_flight():
    log = DyingLog(dies_at=3)
    steps = [ScriptedStep(f"q{n}", f"a{n}") for n in (0, 1, 2, 2, 3)]
    inner = ScriptedModel(steps)

    async def agent(attempt: int) -> list[str]:
        model = recorded(inner, log, attempt)
        return [await text_of(model, ask(f"q{n}")) for n in range(4)]

    with pytest.raises(Killed):
        await agent(1)
    assert await agent(2) == ["a0", "a1", "a2", "a3"]
    asked = [r.messages[-1].content for r in inner.requests]
    assert asked == ["q0", "q1", "q2", "q2", "q3"]
    inner.assert_complete()


async def test_parallel_calls_and_equal_calls_replay_whatever_order_they_end_in():
    log = LocalCallLog()
    gates = [asyncio.Event() for _ in range(3)]
    steps = [
        ScriptedStep("same", "first a", gate=gates[0]),
        ScriptedStep("same", "second b", gate=gates[1]),
        ScriptedStep("other", "third c", gate=gates[2]),
    ]
    inner = ScriptedModel(steps, ordered=False)
    model = recorded(inner, log)
    work = [asyncio.create_task(text_of(model, ask(q))) for q in ("same", "same", "other")]
    for gate in reversed(gates):
        gate.set()
    first = await asyncio.gather(*work)
    assert sorted(first) == ["first a", "second b", "third c"]
    again = recorded(inner, log, attempt=2)
    second = await asyncio.gather(*(text_of(again, ask(q)) for q in ("other", "same", "same")))
    assert second == [first[2], first[0], first[1]]
    assert len(inner.requests) == 3


async def test_of_parallel_calls_only_those_without_an_outcome_are_made_again():
    log = LocalCallLog()
    never = asyncio.Event()
    inner = ScriptedModel(
        [ScriptedStep("slow", "x y", gate=never), ScriptedStep("fast", "b"), ScriptedStep("slow", "x y")],
        ordered=False,
    )
    model = recorded(inner, log)
    slow = asyncio.create_task(text_of(model, ask("slow")))
    while not inner.requests:
        await asyncio.sleep(0)
    assert await text_of(model, ask("fast")) == "b"
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    assert inner.cut_short == 1
    again = recorded(inner, log, attempt=2)
    assert await asyncio.gather(*(text_of(again, ask(q)) for q in ("slow", "fast"))) == ["x y", "b"]
    assert [r.messages[-1].content for r in inner.requests] == ["slow", "fast", "slow"]


async def test_closing_the_generator_closes_the_models_and_leaves_an_intent():
    log = LocalCallLog()
    inner = ScriptedModel([ScriptedStep("hello", "one two three"), ScriptedStep("hello", "again")])
    model = recorded(inner, log)
    async with aclosing(model.stream(ask("hello"))) as chunks:
        assert (await anext(chunks)).text == "one "
    assert inner.cut_short == 1
    assert [c.state for c in log.calls(task().scope)] == ["intent"]
    # The agent's own next try has the key that a replay will look for.
    assert await text_of(model, ask("hello")) == "again"
    assert [c.state for c in log.calls(task().scope)] == ["done"]


async def test_a_passing_error_before_the_first_chunk_is_tried_again_after_a_growing_wait():
    clock = ManualClock()
    starts: list[float] = []

    class Noting(ScriptedModel):
        async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
            starts.append(clock.now())
            async with aclosing(super().stream(request)) as chunks:
                async for chunk in chunks:
                    yield chunk

    busy = ScriptedStep(error=ModelError("busy"))
    inner = Noting([busy, busy, ScriptedStep(text="fine")])
    policy = RetryPolicy(attempts=3, min_s=1.0, max_s=8.0)
    model = recorded(inner, LocalCallLog(), clock=clock, retry=policy, jitter=lambda: 1.0)
    work = asyncio.create_task(text_of(model, ask("hello")))
    while not work.done():
        await clock.advance(0.25)
    assert await work == "fine"
    assert [b - a for a, b in pairwise(starts)] == [1.0, 2.0]


async def test_after_the_last_try_the_error_comes_out_and_nothing_is_recorded():
    log = LocalCallLog()
    inner = ScriptedModel([ScriptedStep(error=ModelError("busy"))] * 2)
    model = recorded(inner, log, retry=RetryPolicy(2, 0.0, 0.0))
    with pytest.raises(ModelError, match="busy"):
        await text_of(model, ask("hello"))
    assert [c.state for c in log.calls(task().scope)] == ["intent"]
    inner.assert_complete()


async def test_an_error_after_the_first_chunk_is_not_tried_again():
    inner = ScriptedModel([ScriptedStep(text="one two", error=ModelError("gone"), error_after=1)])
    with pytest.raises(ModelError, match="gone"):
        await text_of(recorded(inner, LocalCallLog(), retry=RetryPolicy(3, 0.0, 0.0)), ask("hello"))
    assert len(inner.requests) == 1


async def test_no_wait_goes_past_the_deadline():
    clock = ManualClock(start=1000.0)
    inner = ScriptedModel([ScriptedStep(error=ModelError("busy"))])
    model = recorded(inner, LocalCallLog(), clock=clock, retry=RetryPolicy(3, 5.0, 5.0))
    with pytest.raises(ModelError, match="busy"):
        await text_of(model, ask("hello", hints=CallHints(deadline=1001.0)))


async def test_a_lasting_error_is_an_outcome_and_replayed():
    log = LocalCallLog()
    inner = ScriptedModel([ScriptedStep()], context_window=4)
    for attempt in (1, 2):
        with pytest.raises(ContextLengthExceeded, match="window"):
            await text_of(recorded(inner, log, attempt), ask("far too many words for this"))
    assert len(inner.requests) == 1


async def test_an_answer_without_an_end_is_an_error():
    class Breaking:
        async def info(self) -> ModelInfo:
            return ModelInfo("x", 10)

        async def count_tokens(self, messages: Sequence[Any]) -> int:
            return 1

        async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
            yield ChatChunk("half")

    log = LocalCallLog()
    with pytest.raises(ModelError, match="without an end"):
        await text_of(RecordedModel(Breaking(), Recorder(log, task()), "x"), ask("hello"))
    assert log.calls(task().scope)[0].state == "intent"


async def test_hints_are_filled_from_the_task_and_from_what_was_spent(tmp_path):
    inner = ScriptedModel([ScriptedStep(text="a b c"), ScriptedStep(text="d")])
    attempt = Attempt(inner, LocalCallLog(), tmp_path)
    for question in ("one", "two"):
        async for _ in attempt.context.model.stream(ask(question)):
            pass
    first, second = (r.hints for r in inner.requests)
    assert (first.run, first.step, first.epoch) == (task().scope.run, task().scope.step, 1)
    assert (first.priority, first.steps_left, first.attained_tokens) == (3, 2, 100)
    assert second.attained_tokens == 100 + 2 + 3
    assert inner.requests[0].model == "small"
    assert attempt.usage.model_calls == 2


async def test_a_fenced_attempt_reaches_neither_model_nor_tool():
    log = LocalCallLog()
    inner = ScriptedModel([ScriptedStep("new", "x")])
    await text_of(recorded(inner, log, attempt=2), ask("new"))
    with pytest.raises(StaleEpoch):
        await text_of(recorded(inner, log, attempt=1), ask("old"))
    assert len(inner.requests) == 1


@pytest.mark.parametrize(
    "options", [{"model_attempts": "many"}, {"model_attempts": 0}, {"model_retry_min_s": 99}]
)
def test_bad_retry_options_are_refused(options):
    with pytest.raises(InvalidInput, match="model"):
        RetryPolicy.from_options(options)


class Counter:
    """A tool that counts its runs and returns or raises what it was given, in turn."""

    def __init__(self, *results: Any) -> None:
        self.results = list(results)
        self.runs = 0

    async def __call__(self) -> Any:
        self.runs += 1
        result = self.results.pop(0)
        if isinstance(result, BaseException):
            raise result
        return result


def tools_of(log: LocalCallLog, attempt: int = 1, **fields: Any) -> RecordedTools:
    return RecordedTools(Recorder(log, task(attempt, **fields)))


async def test_a_tool_is_replayed_with_its_result_as_json():
    log = LocalCallLog()
    run = Counter({"rows": (1, 2)})
    first = await tools_of(log).call("load", {"path": "a"}, run)
    second = await tools_of(log, 2).call("load", {"path": "a"}, run)
    assert first == second == {"rows": [1, 2]}
    assert run.runs == 1


async def test_a_tools_error_is_an_outcome_and_comes_back_as_the_same_class():
    log = LocalCallLog()
    run = Counter(BlockedAddress("10.0.0.1 is private", fix="none"))
    for attempt in (1, 2):
        with pytest.raises(BlockedAddress, match=r"10\.0\.0\.1"):
            await tools_of(log, attempt).call("fetch", {}, run)
    assert run.runs == 1
    own = Counter(ToolError("odd", code="bad_input"))
    for attempt in (2, 3):
        with pytest.raises(ToolError) as caught:
            await tools_of(log, attempt).call("fetch", {"n": 1}, own)
        assert caught.value.code == "bad_input"
    assert own.runs == 1


async def test_calls_with_one_id_and_other_arguments_are_kept_apart():
    log = LocalCallLog()
    run = Counter("a", "b")
    tools = tools_of(log)
    results = [await tools.call("t", {"n": n}, run, call_id="call_0") for n in (1, 2)]
    replayed = tools_of(log, 2)
    again = [await replayed.call("t", {"n": n}, run, call_id="call_0") for n in (2, 1)]
    assert (results, again, run.runs) == (["a", "b"], ["b", "a"], 2)


async def test_a_tool_that_must_not_be_repeated_waits_for_a_person_when_its_outcome_is_unknown():
    log = LocalCallLog()
    run = Counter(Killed(), "sent")
    tools = tools_of(log)
    with pytest.raises(Killed):
        await tools.call("send_mail", {}, run, idempotent=False)
    with pytest.raises(OutcomeUnknown):
        await tools.call("send_mail", {}, run, idempotent=False)
    with pytest.raises(OutcomeUnknown):
        await tools_of(log, 2).call("send_mail", {}, run, idempotent=False)
    assert run.runs == 1
    assert log.calls(task().scope)[0].state == "unknown"


async def test_an_idempotent_tool_is_run_again_when_its_outcome_is_unknown():
    log = LocalCallLog()
    run = Counter(Killed(), "read")
    with pytest.raises(Killed):
        await tools_of(log).call("read", {}, run)
    assert await tools_of(log, 2).call("read", {}, run) == "read"


@pytest.mark.parametrize("result", [object(), {"x": float("nan")}, b"bytes"])
async def test_a_result_that_is_not_json_is_a_tool_error(result):
    with pytest.raises(ToolError, match="not JSON"):
        await tools_of(LocalCallLog()).call("t", {}, Counter(result))


async def test_the_log_is_asked_before_the_tool_runs():
    order: list[str] = []

    class Ordered(LocalCallLog):
        async def begin(self, intent: CallIntent) -> RecordedCall | None:
            order.append("begin")
            return await super().begin(intent)

        async def finish(self, outcome: CallOutcome) -> None:
            order.append("finish")
            await super().finish(outcome)

    async def run() -> str:
        order.append("run")
        return "x"

    await tools_of(Ordered()).call("t", {}, run)
    assert order == ["begin", "run", "finish"]


LIMITS = (Limit(StepKey(""), Budget(tokens=1000)), Limit(STEP, Budget(tool_calls=3)))
PRICE = Price(input=2.0, output=10.0, cached_input=0.5)


class Intents(LocalCallLog):
    """Remembers what it was asked to begin."""

    def __init__(self) -> None:
        super().__init__()
        self.intents: list[CallIntent] = []

    async def begin(self, intent: CallIntent) -> RecordedCall | None:
        self.intents.append(intent)
        return await super().begin(intent)


class Priced(ScriptedModel):
    async def info(self) -> ModelInfo:
        return replace(await super().info(), price=PRICE)


async def test_a_model_call_reserves_its_longest_answer_and_costs_what_it_used():
    log = Intents()
    inner = Priced([ScriptedStep(text="a b")] * 2, context_window=50)
    model = recorded(inner, log, limits=LIMITS)
    chunks = [chunk async for chunk in model.stream(ask("one two", max_tokens=7))]
    await text_of(model, ask("one two three"))
    first, second = (intent.reserve for intent in log.intents)
    assert (first.input_tokens, first.output_tokens, first.model_calls, first.tool_calls) == (3, 7, 1, 0)
    assert first.cost_micros == 3 * 2 + 7 * 10
    assert (second.input_tokens, second.output_tokens) == (4, 46)
    assert log.intents[0].limits == LIMITS
    used = log.calls(task().scope)[0].usage
    assert (used.input_tokens, used.output_tokens, used.cost_micros) == (3, 2, 3 * 2 + 2 * 10)
    assert chunks[-1].usage == used


async def test_without_limits_nothing_is_counted_before_a_call():
    class Uncountable(ScriptedModel):
        async def count_tokens(self, messages: Sequence[Any]) -> int:
            raise AssertionError("nobody needs this")

        async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
            yield ChatChunk("fine", finish_reason="stop")

    log = Intents()
    assert await text_of(recorded(Uncountable([]), log), ask("hello")) == "fine"
    assert log.intents[0].reserve == Usage()


async def test_a_tool_call_reserves_itself():
    log = Intents()
    await tools_of(log, limits=LIMITS).call("t", {}, Counter("x"))
    await tools_of(log, 2).call("u", {}, Counter("x"))
    assert [intent.reserve for intent in log.intents] == [Usage(tool_calls=1), Usage()]
    assert [intent.limits for intent in log.intents] == [LIMITS, ()]


@pytest.mark.parametrize(
    ("price", "usage", "micros"),
    [
        (Price(), Usage(100, 50, 10), 0),
        (Price(input=3), Usage(input_tokens=2, cached_tokens=2), 6),
        (Price(input=3, cached_input=0), Usage(input_tokens=2, cached_tokens=1), 3),
        (Price(output=0.15), Usage(output_tokens=7), 2),
    ],
)
def test_a_price_in_millionths_is_rounded_up(price: Price, usage: Usage, micros: int):
    assert price.micros(usage) == micros


async def test_a_budget_that_would_not_bear_it_stops_the_call_before_it_is_made():
    class Spent(LocalCallLog):
        async def begin(self, intent: CallIntent) -> RecordedCall | None:
            raise BudgetExceeded("12 of 10 tokens")

    inner = ScriptedModel([])
    recorder = Recorder(Spent(), task())
    model = RecordedModel(inner, recorder, "small", retry=RetryPolicy(3, 0.0, 0.0))
    with pytest.raises(BudgetExceeded):
        await text_of(model, ask("hello"))
    run = Counter("x")
    with pytest.raises(BudgetExceeded):
        await RecordedTools(recorder).call("t", {}, run)
    assert (inner.requests, run.runs) == ([], 0)
    assert isinstance(recorder.verdict, BudgetExceeded)
    assert recorder.unknown_call is None


async def test_the_call_of_unknown_outcome_is_named_and_a_persons_word_settles_it():
    log = LocalCallLog()
    with pytest.raises(Killed):
        await tools_of(log).call("send_mail", {}, Counter(Killed()), idempotent=False)
    recorder = Recorder(log, task(2))
    with pytest.raises(OutcomeUnknown):
        await RecordedTools(recorder).call("send_mail", {}, Counter(), idempotent=False)
    (call,) = log.calls(task().scope)
    assert recorder.unknown_call == call.key

    log.settle(task().scope, call.key, {"result": "sent by hand"})
    run = Counter("sent")
    assert await tools_of(log, 3).call("send_mail", {}, run, idempotent=False) == "sent by hand"
    log.settle(task().scope, call.key, None)
    assert await tools_of(log, 4).call("send_mail", {}, run, idempotent=False) == "sent"
    assert run.runs == 1


async def test_a_passing_error_of_a_tool_is_made_again_by_the_next_attempt_only():
    class Busy(ToolError):
        retryable = True

    log = LocalCallLog()
    run = Counter(Busy("busy"), "fine")
    for attempt in (1, 1):
        with pytest.raises(ToolError, match="busy"):
            await RecordedTools(Recorder(log, task(attempt))).call("t", {}, run)
    assert run.runs == 1
    assert await tools_of(log, 2).call("t", {}, run) == "fine"


async def test_a_loops_requests_are_told_by_what_each_adds():
    turns, log = 40, LocalCallLog()
    inner = ScriptedModel([ScriptedStep(text="go on")] * turns, context_window=10**6)
    model = recorded(inner, log)
    messages = [ChatMessage("system", "be brief " * 50)]
    bodies, sizes = {}, []
    for turn in range(turns):
        messages.append(ChatMessage("user", f"turn {turn} " + "word " * 20))
        request = ChatRequest(tuple(messages), model="small")
        messages.append(ChatMessage("assistant", await text_of(model, request)))
        call = log.calls(task().scope)[-1]
        assert call.request is not None
        bodies[call.key] = request_body(request)
        sizes.append(len(str(call.request)))
    kept = {call.key: call.request or {} for call in log.calls(task().scope)}
    assert restore(kept) == bodies
    assert max(sizes[1:]) < 1.2 * min(sizes[1:])


async def test_what_the_agent_asked_besides_goes_along_with_the_next_outcome_once():
    log = LocalCallLog()
    recorder = Recorder(log, task())
    model = RecordedModel(ScriptedModel([ScriptedStep(text="x")]), recorder, "small")
    message = ChatMessage("user", "one two")
    for _ in range(2):
        await model.info()
        assert await model.count_tokens((message,)) == 3
    await RecordedTools(recorder).call("t", {}, Counter("x"))
    await text_of(model, ask("hello"))
    assert await model.count_tokens((message, message)) == 6
    first, second = log.calls(task().scope)
    assert first.notes == {
        "info": {"small": to_json(await model.info())},
        "counts": {messages_hash("small", (message,)): 3},
    }
    assert second.notes is None
    assert recorder.take_notes() == {"counts": {messages_hash("small", (message, message)): 6}}
    assert recorder.take_notes() is None
