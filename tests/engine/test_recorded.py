"""Steps that are recorded and played back give what the same steps give without.

A CPU has no graphs to record with, so a tape stands in: like a graph it repeats the same operations with the same
numbers on the same tensors, and refuses what would wait for the device or take numbers from the host.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from serve_app.engine import loader
from serve_app.engine.batch import Segment
from serve_app.engine.cuda_graphs import CudaGraphs
from serve_app.engine.engine import Engine, EngineConfig
from serve_app.engine.kv_cache import KvCache
from serve_app.engine.loader import choose_recorder
from serve_app.engine.model import Transformer
from serve_app.engine.recorded import Recorder, Work
from serve_app.engine.types import SamplingParams
from tests.engine.support import SMALL_SIZES, Staggered, randomise, small_tokenizer

PAGE = 8
CONFIG = EngineConfig(dtype="float32", device="cpu", kv_page=PAGE, kv_tokens=512, max_batch=6, threads=1)

SHORT = st.lists(st.integers(1, 2 * PAGE), min_size=1, max_size=6)
LONG = st.lists(st.integers(PAGE + 1, 4 * PAGE), min_size=1, max_size=6)
"""Lengths near enough to each other for a step to be recorded."""

_aten = torch.ops.aten
REFUSED = {
    # Reading a number on the host, a shape that depends on numbers, a tensor made from the host's numbers.
    *(_aten._local_scalar_dense.default, _aten.nonzero.default, _aten.lift_fresh.default),
}


@dataclass
class Call:
    function: Any
    args: Any
    kwargs: Any
    results: list[torch.Tensor]


class Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in REFUSED:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.calls.append(Call(func, args, kwargs or {}, tensors))
        return result

    def play(self) -> None:
        for call in self.calls:
            again = tree_leaves(call.function(*call.args, **call.kwargs))
            for old, new in zip(call.results, again, strict=True):
                # A view, or what was changed in place, is where it was.
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Tapes:
    """A Recorder. `recorded` and `played` count."""

    def __init__(self) -> None:
        self.recorded = self.played = 0

    def record(self, work: Work) -> Work:
        with Tape() as tape:
            result = work()
        self.recorded += 1

        def play() -> torch.Tensor:
            self.played += 1
            tape.play()
            return result

        return play


class Broken:
    def __init__(self, error: RuntimeError) -> None:
        self.asked, self._error = 0, error

    def record(self, work: Work) -> Work:
        self.asked += 1
        raise self._error


Load = Callable[[Path, Recorder | None, EngineConfig], Engine]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Engines of torch's layers, as on a GPU."""

    def loaded(folder: Path, recorder: Recorder | None, config: EngineConfig) -> Engine:
        monkeypatch.setattr(loader, "library", lambda: None)
        monkeypatch.setattr(loader, "choose_recorder", lambda device: recorder)
        return Engine.load(folder, config)

    return loaded


def _llama() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SMALL_SIZES, tie_word_embeddings=False))


def _qwen2() -> torch.nn.Module:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**SMALL_SIZES, tie_word_embeddings=True))


def _qwen3() -> torch.nn.Module:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**SMALL_SIZES, head_dim=32, tie_word_embeddings=False))


@pytest.fixture(scope="module", params=[_llama, _qwen2, _qwen3], ids=["llama", "qwen2", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    model = request.param()
    randomise(model, seed=9)
    model.save_pretrained(path)
    small_tokenizer(path)
    return path


def answers(engine: Engine) -> list[list[int]]:
    """Of ten prompts that come one by one, so that steps differ in requests and in pages."""
    prompts = [tuple(range(5 + row, 9 + row + 4 * row)) for row in range(10)]
    params = SamplingParams(max_tokens=30, ignore_eos=True)
    try:
        return Staggered(engine, prompts, params, every=11).run()
    finally:
        engine.stop()


@pytest.mark.parametrize("kv_tokens", [512, 128], ids=["room", "pre-empted"])
@pytest.mark.usefixtures("one_thread")
def test_answers_are_the_same(folder: Path, load: Load, kv_tokens: int) -> None:
    config, tapes = replace(CONFIG, kv_tokens=kv_tokens), Tapes()
    engine = load(folder, tapes, config)
    assert answers(engine) == answers(load(folder, None, config))
    assert tapes.played > 2 * tapes.recorded > 0
    assert (engine.stats().preempted > 0) == (kv_tokens == 128)
    assert engine.healthy


@dataclass
class Pair:
    """A model with its recordings, and one without, over memories of the same content."""

    recording: Transformer
    plain: Transformer
    tapes: Tapes
    caches: tuple[KvCache, KvCache]


@pytest.fixture(scope="module")
def pair(small_folder: Path) -> Pair:
    tapes = Tapes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "library", lambda: None)
        models = []
        for recorder in (tapes, None):
            patch.setattr(loader, "choose_recorder", lambda device, chosen=recorder: chosen)
            models.append(Engine.load(small_folder, CONFIG).bundle.model)
    recording, plain = models
    assert isinstance(recording, Transformer)
    assert isinstance(plain, Transformer)
    caches = [KvCache(plain.spec, 24, PAGE, plain.dtype, plain.device) for _ in range(2)]
    return Pair(recording, plain, tapes, (caches[0], caches[1]))


@settings(deadline=None, max_examples=40)
@given(SHORT | LONG, st.randoms(use_true_random=False))
def test_logits_and_memory_are_the_same(pair: Pair, lengths: list[int], random: Any) -> None:
    """Whatever lies in the memory, and wherever the pages are."""
    recorded, plain = pair.caches
    content = torch.randn(
        recorded._memory.shape, generator=torch.Generator().manual_seed(random.randrange(99))
    )
    for cache in pair.caches:
        cache._memory.copy_(content)
    free = list(range(24))
    random.shuffle(free)
    segments = []
    for length in lengths:
        own = [free.pop() for _ in range(-(-length // PAGE) + random.choice((0, 1)) * (len(free) > 8))]
        segments.append(Segment((random.randrange(400),), tuple(own), length - 1, wanted=1))
    played = pair.tapes.played
    found = pair.recording.forward(segments, recorded)
    assert pair.tapes.played == played + 1
    torch.testing.assert_close(found, pair.plain.forward(segments, plain), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(recorded._memory[:, :, :24], plain._memory[:, :, :24], rtol=1e-4, atol=1e-4)


def test_few_sizes_are_recorded(pair: Pair) -> None:
    cache = KvCache(pair.plain.spec, 24, PAGE, pair.plain.dtype, pair.plain.device)
    recorded = pair.tapes.recorded
    for rows in (3, 4, 3, 4):
        for length in (2 * PAGE + 1, 4 * PAGE):
            each = [Segment((7,), tuple(range(row * 5, row * 5 + 5)), length - 1, 1) for row in range(rows)]
            assert len(pair.recording.forward(each, cache)) == rows
    assert pair.tapes.recorded == recorded + 1
    assert len(pair.recording.recorded or ()) == 1, "those of another cache are dropped"


def test_a_result_outlives_the_next_step(pair: Pair) -> None:
    cache = KvCache(pair.plain.spec, 24, PAGE, pair.plain.dtype, pair.plain.device)
    first = pair.recording.forward([Segment((7,), (0,), 0, 1)], cache)
    before = first.clone()
    pair.recording.forward([Segment((8,), (1,), 0, 1)], cache)
    assert torch.equal(first, before)


@pytest.mark.parametrize(
    "segments",
    [
        [Segment((5, 6), (0,), 0, 1)],
        [Segment((5,), (0,), 0, 1), Segment((5, 6, 7), (1,), 0, 1)],
        [Segment((5,), (0,), 0, 0)],
        [Segment((5,), (row,), 0, 1) for row in range(7)] + [Segment((5,), tuple(range(7, 18)), 80, 1)],
    ],
    ids=["prompt", "beside a prompt", "nothing wanted", "one far longer than the others"],
)
def test_other_steps_are_not_recorded(pair: Pair, segments: list[Segment]) -> None:
    cache = KvCache(pair.plain.spec, 24, PAGE, pair.plain.dtype, pair.plain.device)
    played = pair.tapes.played
    pair.recording.forward(segments, cache)
    assert pair.tapes.played == played


def test_what_cannot_be_recorded_is_computed_without(
    small_folder: Path, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken(RuntimeError("operation not permitted"))
    with caplog.at_level(logging.WARNING):
        found = answers(load(small_folder, broken, CONFIG))
    assert found == answers(load(small_folder, None, CONFIG))
    assert broken.asked == 1
    assert [r.getMessage() for r in caplog.records if "not recorded" in r.getMessage()]


def test_a_size_without_memory_leaves_the_others(small_folder: Path, load: Load) -> None:
    broken = Broken(torch.OutOfMemoryError("no memory"))
    found = answers(load(small_folder, broken, CONFIG))
    assert found == answers(load(small_folder, None, CONFIG))
    assert broken.asked > 3, "each size is tried, once"
    assert broken.asked < 20


def test_recording_can_be_turned_off(small_folder: Path, load: Load) -> None:
    model = load(small_folder, Tapes(), replace(CONFIG, cuda_graphs=False)).bundle.model
    assert isinstance(model, Transformer)
    assert model.recorded is None


def test_a_gpu_records_with_its_graphs() -> None:
    assert isinstance(choose_recorder(torch.device("cuda")), CudaGraphs)
    assert choose_recorder(torch.device("cpu")) is None


on_a_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device that this build of torch can use"
)


@on_a_gpu
def test_graphs_of_a_gpu(folder: Path) -> None:
    config = replace(CONFIG, device="cuda")
    engine = Engine.load(folder, config)
    found = answers(engine)
    model = engine.bundle.model
    assert isinstance(model, Transformer)
    assert model.recorded
    assert len(model.recorded) > 3
    assert found == answers(Engine.load(folder, replace(config, cuda_graphs=False)))


def logits_of_steps(engine: Engine) -> torch.Tensor:
    """Over prompts that were read in pieces, at sizes that are filled and that are not, two steps of each."""
    model = engine.bundle.model
    cache = KvCache(model.spec, 24, PAGE, model.dtype, model.device)
    prompts = [
        (tuple(range(5, 5 + length)), (3 * row, 3 * row + 1, 3 * row + 2))
        for row, length in enumerate((9, 17, 3, 20, 12))
    ]
    for tokens, pages in prompts:
        model.forward([Segment(tokens[:2], pages, 0, 0)], cache)
        model.forward([Segment(tokens[2:], pages, 2, 1)], cache)
    steps = [
        [Segment((7 + step,), pages, len(tokens) + step, 1) for tokens, pages in prompts[:rows]]
        for rows in (5, 4)
        for step in range(2)
    ]
    return torch.cat([model.forward(step, cache).float().cpu() for step in steps])


@on_a_gpu
@pytest.mark.parametrize(("dtype", "near"), [("float32", 0.9999), ("bfloat16", 0.99)])
def test_logits_of_a_gpu_are_those_of_a_cpu(folder: Path, dtype: str, near: float) -> None:
    exact = logits_of_steps(Engine.load(folder, CONFIG))
    for cuda_graphs in (True, False):
        config = replace(CONFIG, device="cuda", dtype=dtype, cuda_graphs=cuda_graphs)
        found = logits_of_steps(Engine.load(folder, config))
        assert torch.nn.functional.cosine_similarity(found, exact).min() > near


def test_steps_in_bfloat16_are_near_those_in_float32(folder: Path, load: Load) -> None:
    """As on a GPU, with what a CPU has."""
    tapes = Tapes()
    exact = logits_of_steps(load(folder, None, CONFIG))
    found = logits_of_steps(load(folder, tapes, replace(CONFIG, dtype="bfloat16")))
    assert tapes.played == 5, "the steps, and a last piece of one token"
    assert torch.nn.functional.cosine_similarity(found, exact).min() > 0.99
