"""A slot comes free within two engine steps of a cancel's arrival, and when the lease of a dead caller lapses."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
import torch

from manta.config import ModelSettings
from manta.errors import RunCancelled
from manta.messages import CallHints, ChatChunk, ChatRequest
from serve_app.backends.torch_backend import TorchBackend
from serve_app.engine.batch import Segment
from serve_app.engine.bundle import ModelBundle
from serve_app.engine.engine import Engine, EngineConfig, GenerationRequest, SamplingParams
from serve_app.engine.kv_cache import KvCache
from serve_app.engine.model import LanguageModel
from tests.engine.support import DEADLINE, Collector, needs

CONFIG = EngineConfig(dtype="float32", max_batch=1, kv_tokens=1024, prefill_chunk=64, threads=1)
STEPS_ALLOWED = 2


class SteppedModel:
    """A model that computes a step only when it is let."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._allowed = 0
        self.begun = 0
        self._changed = threading.Condition()
        self.spec, self.device, self.dtype = model.spec, model.device, model.dtype
        self.rows_are_alike = model.rows_are_alike

    def forward(self, segments: Sequence[Segment], cache: KvCache) -> torch.Tensor:
        with self._changed:
            self.begun += 1
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._allowed > 0, timeout=DEADLINE)
            self._allowed -= 1
        return self._model.forward(segments, cache)

    def let(self, steps: int) -> None:
        with self._changed:
            self._allowed += steps
            self._changed.notify_all()

    def until_begun(self, steps: int) -> None:
        """Returns in mid-step: the step of this number waits to be let."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.begun >= steps, timeout=DEADLINE)


@pytest.fixture
def stepped(small: ModelBundle) -> Iterator[tuple[Engine, SteppedModel]]:
    model = SteppedModel(small.model)
    engine = Engine(replace(small, model=model), CONFIG)
    engine.start()
    yield engine, model
    model.let(10**6)
    engine.stop()


def endless(id: str, **more: object) -> GenerationRequest:
    params = SamplingParams(max_tokens=200, ignore_eos=True)
    return GenerationRequest(id, tuple(range(5, 13)), params, **more)  # type: ignore[arg-type]


def steps_until(model: SteppedModel, freed: Callable[[], bool]) -> int:
    """Let the engine step, one at a time, until the slot is free; how many steps it took."""
    for steps in range(1, 10):
        begun = model.begun
        model.let(1)
        # The next step begins with the next in the queue, so there is always one.
        model.until_begun(begun + 1)
        if freed():
            return steps
    raise AssertionError("the slot was not freed")


def test_a_cancel_in_mid_step_frees_the_slot_within_two(stepped: tuple[Engine, SteppedModel]):
    engine, model = stepped
    heard = Collector()
    engine.submit(endless("first"), heard)
    engine.submit(endless("next"), heard)
    model.let(3)
    model.until_begun(4)
    engine.cancel("first")
    assert steps_until(model, lambda: heard.tokens_now("next") > 0) <= STEPS_ALLOWED
    assert heard.last("first").finish_reason == "cancelled"


@needs("pytest-asyncio")
async def test_a_caller_that_leaves_frees_the_slot_within_two(stepped: tuple[Engine, SteppedModel]):
    """From the task that a replica cancels down to the engine."""
    engine, model = stepped
    backend = TorchBackend("small", ModelSettings())
    backend._engine = engine
    heard, chunks = Collector(), []

    async def read() -> None:
        async for chunk in backend.stream(ChatRequest((), prompt_ids=tuple(range(5, 13)), max_tokens=200)):
            chunks.append(chunk)

    caller = asyncio.create_task(read())
    while not model.begun:
        await asyncio.sleep(0)
    engine.submit(endless("next"), heard)
    model.let(2)
    await asyncio.to_thread(model.until_begun, 3)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    steps = await asyncio.to_thread(steps_until, model, lambda: heard.tokens_now("next") > 0)
    assert steps <= STEPS_ALLOWED
    assert all(isinstance(chunk, ChatChunk) for chunk in chunks)


def test_when_a_lease_lapses_the_slot_is_given_to_the_next(small: ModelBundle):
    """Nobody cancels: the caller died."""
    now = [100.0]
    engine = Engine(small, CONFIG, clock=lambda: now[0])
    heard = Collector()
    engine.submit(endless("dead", deadline=110.0), heard)
    engine.submit(endless("dead and waiting", deadline=109.0), heard)
    engine.submit(endless("next"), heard)
    engine.start()
    try:
        heard.wait_tokens("dead", 3)
        assert heard.tokens_now("next") == 0
        now[0] = 110.0
        assert heard.last("dead").finish_reason == "cancelled"
        assert heard.last("dead and waiting").finish_reason == "cancelled"
        assert heard.last("next").finish_reason == "length"
        assert engine.stats().running == engine.stats().waiting == engine.stats().kv_tokens_used == 0
    finally:
        engine.stop()


@needs("pytest-asyncio")
@pytest.mark.parametrize(("seconds", "reason"), [(-1.0, "cancelled"), (3600.0, "length")])
async def test_a_calls_lease_is_the_engines_deadline(small: ModelBundle, seconds: float, reason: str):
    """The caller counts seconds of the wall clock, the engine monotonic ones."""
    engine = Engine(small, CONFIG)
    engine.start()
    backend = TorchBackend("small", ModelSettings())
    backend._engine = engine
    hints = CallHints(deadline=time.time() + seconds)
    request = ChatRequest((), prompt_ids=tuple(range(5, 13)), max_tokens=3, hints=hints)
    try:
        chunks = [chunk async for chunk in backend.stream(request)]
    except RunCancelled:
        assert reason == "cancelled"
    else:
        assert chunks[-1].finish_reason in (reason, "stop")
    finally:
        engine.stop()
