"""Compiled code: its products are the exact ones or near them, its step is the plain one, and nothing needs it."""

import logging
import re
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.engine import loader
from serve_app.engine.batch import Segment
from serve_app.engine.bundle import load_bundle
from serve_app.engine.engine import EngineConfig
from serve_app.engine.kv_cache import KvCache
from serve_app.engine.linear import Int8Linear, Linear
from serve_app.engine.model import Transformer
from serve_app.engine.native import build
from serve_app.engine.native.product import NativeInt8Linear, NativeLinear, fits_float32, fits_int8
from serve_app.engine.native.shapes import FEW_ROWS, OUTPUTS, QUERIES
from serve_app.engine.native.step import _Scratch, all_native
from tests.engine.support import SMALL_SIZES, randomise, small_tokenizer

KERNELS = build.library()
INT8 = EngineConfig(quantize="int8")
FLOAT32 = EngineConfig(dtype="float32")
PAGE = 8

compiled_only = pytest.mark.skipif(KERNELS is None, reason="no compiler, or no AVX2")


@pytest.fixture(scope="module")
def qwen2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Biases, a head of its own, and no norms of queries and keys: what the Qwen3 of the other tests lacks."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("qwen2")
    model = Qwen2ForCausalLM(Qwen2Config(**SMALL_SIZES, tie_word_embeddings=False))
    randomise(model, seed=4)
    model.save_pretrained(folder)
    small_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def one_key_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("one key head")
    sizes = {**SMALL_SIZES, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 16}
    model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False))
    randomise(model, seed=6)
    model.save_pretrained(folder)
    small_tokenizer(folder)
    return folder


def transformer(folder: Path, config: EngineConfig) -> Transformer:
    model = load_bundle(folder, config).model
    assert isinstance(model, Transformer)
    assert model.native is not None
    return model


@cache
def known(folder: Path, config: EngineConfig) -> Transformer:
    """One model for all examples of a property."""
    return transformer(folder, config)


def fresh_cache(model: Transformer, page: int = PAGE) -> KvCache:
    return KvCache(model.spec, 24, page, model.dtype, model.device)


def segment(first: int, count: int, pages: tuple[int, ...], position: int = 0, wanted: int = 1) -> Segment:
    return Segment(tuple(range(first, first + count)), pages, position, wanted)


# Prompts first, then decoding, then both at once; pages out of order, a prompt in two chunks.
STEPS = (
    [segment(5, 13, (3, 1)), segment(30, 5, (0,)), segment(60, 9, (7, 4, 9), wanted=0)],
    [segment(90, 1, (3, 1), 13), segment(91, 1, (0,), 5)],
    [segment(92, 1, (3, 1), 14), segment(70, 10, (7, 4, 9), 9), segment(93, 1, (0,), 6)],
    [segment(94, 3, (3, 1, 12), 15), segment(95, 1, (7, 4, 9), 19)],
)


@compiled_only
@pytest.mark.parametrize(("kind", "error"), [(NativeInt8Linear, 0.01), (NativeLinear, 1e-6)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 11, 70])
def test_products_are_near_and_rows_do_not_see_each_other(
    kind: type[NativeInt8Linear] | type[NativeLinear], error: float, count: int, bias: bool
) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(64, 98, generator=generator)
    shift = torch.randn(64, generator=generator) if bias else None
    rows = torch.randn(count, 98, generator=generator) * torch.logspace(-2, 3, count)[:, None]
    product = kind(KERNELS, weight, shift)
    found, exact = product(rows), torch.nn.functional.linear(rows, weight, shift)
    assert bool(((found - exact).norm(dim=-1) < error * exact.norm(dim=-1)).all())
    for row in range(count):
        assert torch.equal(product(rows[row : row + 1])[0], found[row])


@compiled_only
def test_packed_weights_are_a_table_too() -> None:
    weight = torch.randn(48, 10)
    ids = torch.tensor([0, 17, 47, 17])
    assert torch.equal(NativeLinear(KERNELS, weight, None).rows(ids), weight[ids])


@compiled_only
def test_sums_of_wide_products_do_not_overflow() -> None:
    weight = torch.ones(16, 40_000)
    product = NativeInt8Linear(KERNELS, weight, None)
    found = product(torch.ones(1, 40_000))
    assert torch.allclose(found, torch.full((1, 16), 40_000.0), rtol=0.02)


@compiled_only
@pytest.mark.parametrize(("config", "error"), [(INT8, 2e-2), (FLOAT32, 1e-5)], ids=["int8", "float32"])
@pytest.mark.parametrize("family", ["small_folder", "qwen2_folder"])
def test_the_step_is_the_plain_one(
    family: str, config: EngineConfig, error: float, request: pytest.FixtureRequest
) -> None:
    model = transformer(request.getfixturevalue(family), config)
    ours, plain = fresh_cache(model), fresh_cache(model)
    bare = Transformer(model.spec, model.weights, model.dtype)
    for segments in STEPS:
        assert model.native is not None
        found = model.native.forward(segments, ours)
        torch.testing.assert_close(found, bare.forward(segments, plain), rtol=error, atol=error)
    for layer in range(model.spec.layers):
        torch.testing.assert_close(ours.keys[layer], plain.keys[layer], rtol=error, atol=error)
        torch.testing.assert_close(ours.values[layer], plain.values[layer], rtol=error, atol=error)


@compiled_only
@pytest.mark.parametrize("page", [8, 12, 128])
@pytest.mark.parametrize("family", ["small_folder", "one_key_head"])
def test_long_prompts_in_pages_of_any_size_are_the_plain_ones(
    family: str, page: int, request: pytest.FixtureRequest
) -> None:
    """Many blocks of queries, many tiles of keys, more queries of a key head than share registers."""
    model = transformer(request.getfixturevalue(family), FLOAT32)
    pages = tuple(range(23, 23 - -(-182 // page), -1))
    ours, plain = fresh_cache(model, page), fresh_cache(model, page)
    bare = Transformer(model.spec, model.weights, model.dtype)
    steps = ([segment(5, 70, pages)], [segment(75, 110, pages, 70)], [segment(7, 1, pages, 180)])
    for segments in steps:
        found, wanted = model.forward(segments, ours), bare.forward(segments, plain)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@compiled_only
@pytest.mark.parametrize("config", [INT8, FLOAT32], ids=["int8", "float32"])
def test_neighbours_and_threads_change_no_bit(small_folder: Path, config: EngineConfig) -> None:
    model = transformer(small_folder, config)
    prompts = [segment(5 + row, 12, (2 * row, 2 * row + 1)) for row in range(5)]
    nexts = [segment(50 + row, 1, (2 * row, 2 * row + 1), 12) for row in range(5)]
    together, alone = fresh_cache(model), fresh_cache(model)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = [model.forward(segments, together) for segments in (prompts, nexts)]
        torch.set_num_threads(1)
        for segments, rows in zip((prompts, nexts), found, strict=True):
            for row, each in enumerate(segments):
                assert torch.equal(model.forward([each], alone)[0], rows[row])
    finally:
        torch.set_num_threads(before)


@compiled_only
@pytest.mark.parametrize("config", [INT8, FLOAT32], ids=["int8", "float32"])
@given(cuts=st.lists(st.integers(1, 179), min_size=1, max_size=6, unique=True))
@settings(max_examples=25, deadline=None)
def test_where_a_prompt_is_cut_changes_no_bit(
    small_folder: Path, config: EngineConfig, cuts: list[int]
) -> None:
    model, pages = known(small_folder, config), tuple(range(23, 0, -1))
    whole, cut = fresh_cache(model), fresh_cache(model)
    wanted = model.forward([segment(5, 180, pages)], whole)
    for begin, end in pairwise([0, *sorted(cuts), 180]):
        # As the engine asks: of a prompt's first pieces no row is wanted.
        found = model.forward([segment(5 + begin, end - begin, pages, begin, wanted=int(end == 180))], cut)
    assert torch.equal(found, wanted)
    assert all(map(torch.equal, cut.keys, whole.keys))
    assert all(map(torch.equal, cut.values, whole.values))


@compiled_only
def test_heads_of_other_widths_are_torchs(tmp_path: Path) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    peer = Qwen3ForCausalLM(Qwen3Config(**SMALL_SIZES, head_dim=40, tie_word_embeddings=True)).eval()
    randomise(peer, seed=5)
    peer.save_pretrained(tmp_path)
    small_tokenizer(tmp_path)
    model = load_bundle(tmp_path, FLOAT32).model
    assert isinstance(model, Transformer)
    assert isinstance(model.weights.head, NativeLinear)
    assert (model.native, model.rows_are_alike) == (None, False)
    found = model.forward([segment(5, 20, (0, 1, 2))], fresh_cache(model))
    with torch.inference_mode():
        wanted = peer(torch.arange(5, 25)[None]).logits[0, -1:]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@compiled_only
def test_more_queries_of_a_key_head_than_a_block_holds_are_torchs(small_folder: Path) -> None:
    model = transformer(small_folder, FLOAT32)
    assert all_native(model.spec, model.weights)
    assert not all_native(replace(model.spec, heads=49 * model.spec.kv_heads), model.weights)


@compiled_only
def test_room_for_scores_is_bounded_by_what_stays_near(small_folder: Path) -> None:
    spec = replace(transformer(small_folder, FLOAT32).spec, heads=6, kv_heads=2)
    rooms = {places: _Scratch(spec, 2, 8, places, torch.float32) for places in (500, 8192, 500_000)}
    assert {places: room.tokens for places, room in rooms.items()} == {500: 16, 8192: 10, 500_000: 1}
    assert all(room.serves(2, 64, places) for places, room in rooms.items())
    assert not rooms[500].serves(2, 65, 500)
    assert not rooms[500].serves(2, 64, 513)


def test_sizes_are_those_of_the_kernels() -> None:
    source = "".join(path.read_text() for path in build._SOURCES)
    sizes = {name: int(size) for name, size in re.findall(r"constexpr int (k\w+) = (\d+);", source)}
    assert (sizes["kOuts"], sizes["kFewRows"], sizes["kQueries"]) == (OUTPUTS, FEW_ROWS, QUERIES)


def test_without_a_compiler_torch_multiplies(small_folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(loader, "library", lambda: None)
    model = load_bundle(small_folder, INT8).model
    assert isinstance(model, Transformer)
    assert model.native is None
    assert isinstance(model.weights.head, Int8Linear)
    plain = load_bundle(small_folder, FLOAT32).model
    assert isinstance(plain, Transformer)
    assert plain.native is None
    assert isinstance(plain.weights.head, Linear)


def test_why_there_are_no_kernels_is_told(monkeypatch, tmp_path: Path, caplog) -> None:
    broken = tmp_path / "compiler"
    broken.write_text("#!/bin/sh\necho 'out of order' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setattr(build, "_missing", lambda: None)
    with caplog.at_level(logging.INFO):
        assert build.library.__wrapped__() is None
    assert "out of order" in caplog.text


@compiled_only
def test_compiles_once(tmp_path: Path) -> None:
    made = build.compiled(tmp_path)
    stamp = made.stat().st_mtime_ns
    assert build.compiled(tmp_path) == made
    assert made.stat().st_mtime_ns == stamp
    assert list(tmp_path.iterdir()) == [made]


def test_what_cannot_be_packed() -> None:
    assert fits_int8(torch.empty(32, 6))
    assert not fits_int8(torch.empty(24, 6))
    assert not fits_int8(torch.empty(32, 7))
    assert not fits_int8(torch.empty(16, 70_000))
    assert fits_float32(torch.empty(32, 7))
    assert not fits_float32(torch.empty(24, 7))
    assert not fits_float32(torch.empty(32, 7, dtype=torch.bfloat16))
