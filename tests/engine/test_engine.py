"""The engine's promises: slots come free within one step, faults stay with their request, seeds repeat."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from manta.errors import ContextLengthExceeded, InvalidInput, ModelError
from serve_app.engine.batch import Segment
from serve_app.engine.bundle import ModelBundle
from serve_app.engine.core import EngineCore
from serve_app.engine.engine import (
    Engine,
    EngineConfig,
    EngineOutput,
    EngineStats,
    GenerationRequest,
    SamplingParams,
)
from serve_app.engine.kv_cache import KvCache
from serve_app.engine.model import LanguageModel
from tests.engine.support import DEADLINE, QUESTIONS, Collector, generate

CONFIG = EngineConfig(dtype="float32", max_batch=4, kv_tokens=1024, prefill_chunk=64, kv_page=32)
ENDLESS = SamplingParams(max_tokens=200, ignore_eos=True)


def request(id: str, length: int = 8, params: SamplingParams = ENDLESS, **more) -> GenerationRequest:
    return GenerationRequest(id, tuple(range(5, 5 + length)), params, **more)


class TestSteps:
    """The core is stepped by hand, so that steps can be counted."""

    def test_cancelled_frees_the_slot_before_the_next_step(self, small: ModelBundle) -> None:
        core, heard = EngineCore(small, replace(CONFIG, max_batch=1)), Collector()
        core.add(request("first"), heard)
        core.add(request("second"), heard)
        for _ in range(3):
            core.step(0.0)
        core.end("first", "cancelled")
        assert core.stats().running == 0
        assert core.stats().kv_tokens_used == 0
        core.step(0.0)
        assert core.stats().steps == 4
        assert [output.finish_reason for output in heard.outputs["first"]] == [None, None, None, "cancelled"]
        assert heard.tokens_now("second") == 1

    def test_lapsed_deadline_frees_the_slot_in_that_step(self, small: ModelBundle) -> None:
        core, heard = EngineCore(small, replace(CONFIG, max_batch=1)), Collector()
        core.add(request("first", deadline=10.0), heard)
        core.add(request("waiting", deadline=9.0), heard)
        core.add(request("second"), heard)
        core.step(8.9)
        core.step(9.5)
        assert heard.last("waiting").finish_reason == "cancelled"
        core.step(10.0)
        assert heard.last("first").finish_reason == "cancelled"
        assert heard.tokens_now("first") == 2
        assert heard.tokens_now("second") == 1

    def test_each_sink_is_called_once_a_step(self, small: ModelBundle) -> None:
        core = EngineCore(small, CONFIG)
        calls: list[str] = []
        for id in "abc":
            core.add(request(id), lambda output: calls.append(output.request_id))
        for _ in range(3):
            core.step(0.0)
            assert sorted(calls) == ["a", "b", "c"]
            calls.clear()

    def test_counts_are_right(self, small: ModelBundle) -> None:
        core, heard = EngineCore(small, CONFIG), Collector()
        core.add(request("a", length=100, params=SamplingParams(max_tokens=5, ignore_eos=True)), heard)
        while core.busy:
            core.step(0.0)
        last = heard.last("a")
        assert (last.input_tokens, last.output_tokens, last.cached_tokens) == (100, 5, 0)
        assert last.finish_reason == "length"
        stats = core.stats()
        # Two chunks of prompt, the second of which samples; then four more tokens.
        assert (stats.steps, stats.prefill_tokens, stats.decode_tokens) == (6, 100, 4)

    def test_shared_beginning_is_copied_and_changes_nothing(self, small: ModelBundle) -> None:
        prompt = tuple(small.tokenizer.encode(QUESTIONS[4]))
        params = SamplingParams(max_tokens=20, ignore_eos=True)
        alone, shared = Collector(), Collector()
        core = EngineCore(small, CONFIG)
        core.add(GenerationRequest("a", (*prompt[:60], 7, 8, 9), params), alone)
        while core.busy:
            core.step(0.0)
        for id in ("b", "c"):
            core.add(GenerationRequest(id, prompt, params), shared)
        while core.busy:
            core.step(0.0)
        assert shared.last("b").cached_tokens == 60
        assert shared.last("c").cached_tokens >= 60
        other, fresh = EngineCore(small, CONFIG), Collector()
        other.add(GenerationRequest("b", prompt, params), fresh)
        while other.busy:
            other.step(0.0)
        assert fresh.last("b").cached_tokens == 0
        assert fresh.tokens("b") == shared.tokens("b") == shared.tokens("c")


@pytest.fixture
def engine(small: ModelBundle):
    engine = Engine(small, replace(CONFIG, threads=1))
    engine.start()
    yield engine
    engine.stop()


def test_cancel_from_another_thread(engine: Engine) -> None:
    heard = Collector()
    engine.submit(request("a"), heard)
    heard.wait_tokens("a", 3)
    engine.cancel("a")
    engine.cancel("nobody")
    assert heard.last("a").finish_reason == "cancelled"
    assert engine.stats().running == 0


def test_stop_ends_what_runs_and_refuses_what_comes(small: ModelBundle) -> None:
    engine = Engine(small, CONFIG)
    engine.start()
    heard = Collector()
    engine.submit(request("a"), heard)
    heard.wait_tokens("a", 1)
    engine.stop()
    assert heard.last("a").finish_reason == "cancelled"
    with pytest.raises(ModelError, match="stopped"):
        engine.submit(request("b"), heard)
    engine.cancel("a")


def test_what_cannot_run_is_refused_at_once(engine: Engine) -> None:
    heard = Collector()
    with pytest.raises(ContextLengthExceeded, match="1000 prompt tokens and max_tokens 200 exceed"):
        engine.submit(GenerationRequest("a", (5,) * 1000, ENDLESS), heard)
    with pytest.raises(InvalidInput, match="vocabulary of 400"):
        engine.submit(GenerationRequest("a", (5, 400), ENDLESS), heard)
    with pytest.raises(InvalidInput, match="chat template"):
        engine.render_chat([{"role": "user", "content": "hi"}])
    assert not heard.outputs


def test_an_id_in_use_hears_an_error_and_the_first_goes_on(engine: Engine) -> None:
    first, second = Collector(), Collector()
    engine.submit(request("a"), first)
    engine.submit(request("a"), second)
    assert second.last("a").finish_reason == "error"
    assert "already" in (second.last("a").error or "")
    assert first.last("a").finish_reason == "length"


def test_a_raising_sink_ends_only_its_request(engine: Engine) -> None:
    heard = Collector()

    def broken(output: EngineOutput) -> None:
        raise ValueError("the reader is gone")

    engine.submit(request("good"), heard)
    engine.submit(request("bad"), broken)
    assert heard.last("good").finish_reason == "length"
    assert heard.tokens_now("good") == 200
    assert engine.healthy
    assert engine.stats().running == 0


def test_failing_sampling_ends_only_its_request(engine: Engine) -> None:
    heard = Collector()
    engine.submit(request("good"), heard)
    # So cold that every scaled logit is infinite: no distribution is left to draw from.
    engine.submit(request("bad", params=SamplingParams(temperature=1e-45, ignore_eos=True)), heard)
    assert heard.last("bad").finish_reason == "error"
    assert "sampling" in (heard.last("bad").error or "")
    assert heard.last("good").finish_reason == "length"
    assert engine.healthy


class FailingModel:
    """A model that fails at its n-th pass, as one that runs out of GPU memory does."""

    def __init__(self, model: LanguageModel, passes: int) -> None:
        self._model = model
        self._left = passes
        self.spec, self.device, self.dtype = model.spec, model.device, model.dtype
        self.rows_are_alike = model.rows_are_alike

    def forward(self, segments: Sequence[Segment], cache: KvCache) -> torch.Tensor:
        if self._left == 0:
            raise RuntimeError("out of memory")
        self._left -= 1
        return self._model.forward(segments, cache)


def test_a_crashed_step_ends_all_and_marks_the_engine(small: ModelBundle) -> None:
    engine = Engine(replace(small, model=FailingModel(small.model, passes=5)), replace(CONFIG, max_batch=2))
    heard = Collector()
    for id in "abc":
        engine.submit(request(id), heard)
    assert engine.healthy
    engine.start()
    for id in "abc":
        last = heard.last(id)
        assert last.finish_reason == "error"
        assert "out of memory" in (last.error or "")
    assert not engine.healthy
    with pytest.raises(ModelError, match="out of memory"):
        engine.submit(request("d"), heard)
    engine.stop()


def test_batched_equals_single(small: ModelBundle) -> None:
    params = SamplingParams(max_tokens=24, ignore_eos=True)
    prompts = [tuple(small.tokenizer.encode(question)) for question in QUESTIONS[:12]]
    single = []
    for prompt in prompts:
        core, heard = EngineCore(small, replace(CONFIG, max_batch=1)), Collector()
        core.add(GenerationRequest("only", prompt, params), heard)
        while core.busy:
            core.step(0.0)
        single.append(heard.tokens("only"))
    core, heard = EngineCore(small, replace(CONFIG, max_batch=12, kv_tokens=4096)), Collector()
    for index, prompt in enumerate(prompts):
        core.add(GenerationRequest(str(index), prompt, params), heard)
    while core.busy:
        core.step(0.0)
    assert [heard.tokens(str(index)) for index in range(12)] == single


@dataclass(frozen=True)
class Ran:
    heard: Collector
    stats: EngineStats


def run_all(bundle: ModelBundle, config: EngineConfig, requests: Sequence[GenerationRequest]) -> Ran:
    """Step a core of its own until all have ended."""
    core, heard = EngineCore(bundle, config), Collector()
    for each in requests:
        core.add(each, heard)
    while core.busy:
        core.step(0.0)
    return Ran(heard, core.stats())


@pytest.mark.parametrize("params", [ENDLESS, replace(ENDLESS, temperature=0.9, top_p=0.9, seed=5)])
def test_preempted_equals_undisturbed(small: ModelBundle, params: SamplingParams) -> None:
    prompts = [tuple(small.tokenizer.encode(question))[:40] for question in QUESTIONS[:4]]
    requests = [
        GenerationRequest(str(index), prompt, replace(params, max_tokens=60), priority=index % 2)
        for index, prompt in enumerate(prompts)
    ]
    roomy = run_all(small, replace(CONFIG, kv_tokens=2048, max_batch=1), requests)
    tight = run_all(small, replace(CONFIG, kv_tokens=160, kv_page=8), requests)
    assert roomy.stats.preempted == 0
    assert tight.stats.preempted > 0
    for each in requests:
        assert tight.heard.tokens(each.id) == roomy.heard.tokens(each.id)
        last = tight.heard.last(each.id)
        assert (last.finish_reason, last.output_tokens) == ("length", 60)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunked_prefill_equals_whole(small: ModelBundle, chunk: int) -> None:
    prompt = tuple(small.tokenizer.encode(QUESTIONS[4]))
    wanted = GenerationRequest("a", prompt, replace(ENDLESS, max_tokens=20))
    whole = run_all(small, CONFIG, [wanted])
    parts = run_all(small, replace(CONFIG, prefill_chunk=chunk), [wanted])
    assert parts.heard.tokens("a") == whole.heard.tokens("a")


def test_a_seed_repeats_whatever_else_runs(engine: Engine) -> None:
    seeded = SamplingParams(max_tokens=30, temperature=1.0, top_p=0.95, seed=11, ignore_eos=True)
    alone = generate(engine, range(5, 20), seeded, "alone").tokens("alone")
    heard = Collector()
    for index in range(3):
        other = replace(seeded, seed=index, temperature=0.7)
        engine.submit(GenerationRequest(f"other{index}", tuple(range(30, 50)), other), heard)
    engine.submit(GenerationRequest("again", tuple(range(5, 20)), seeded), heard)
    assert heard.tokens("again") == alone
    assert generate(engine, range(5, 20), replace(seeded, seed=12), "else").tokens("else") != alone


def test_submitting_from_many_threads(engine: Engine) -> None:
    heard = Collector()
    params = SamplingParams(max_tokens=5, ignore_eos=True)

    def submit(worker: int) -> None:
        for index in range(5):
            engine.submit(request(f"{worker}-{index}", params=params), heard)

    workers = [threading.Thread(target=submit, args=(worker,)) for worker in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(DEADLINE)
    assert all(heard.last(f"{w}-{i}").finish_reason == "length" for w in range(6) for i in range(5))
    assert engine.stats().running == engine.stats().waiting == engine.stats().kv_tokens_used == 0


def test_real_model_answers_and_stops(smol: Engine) -> None:
    prompt = smol.render_chat([{"role": "user", "content": "What is the capital of France?"}])
    heard = generate(smol, prompt, SamplingParams(max_tokens=40))
    assert heard.text("only") == "The capital of France is Paris."
    assert heard.last("only").finish_reason == "stop"
    assert heard.tokens("only")[-1] == 2
    # " France is" lies across three tokens; nothing of it may be sent.
    heard = generate(smol, prompt, SamplingParams(max_tokens=40, stop=("nce is P", "never")), "stops")
    assert heard.text("stops") == "The capital of Fra"
    assert heard.last("stops").finish_reason == "stop"
