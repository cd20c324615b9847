"""Sentence embeddings: our own torch pass and ONNX Runtime with 8-bit weights, in turn; and what they find.

    python -m benchmarks.embeddings --json out/embeddings.json

Rows `batch N`: passages of the project's own pages in passes of N, texts/s; `ours` is torch. `recall@8`: of the
passages that the exact (fp32) vectors find for sentences of these pages, the share found by each.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness import Row, Side, Target, compare, in_turn, row, show, write
from benchmarks.machine import describe
from serve_app.engine.embeddings import SentenceEmbedder
from serve_app.engine.onnx_embeddings import load_onnx_embedder
from serve_app.engine.weights import embedded_embedder_path
from tools.passages import split

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("docs/**/*.md", "examples/**/*.md", "README.md")
OURS = "torch"
ONNX = "onnx-int8"
BATCHES = (1, 32)
TEXTS = {1: 16, 32: 64}
"""Texts of one measurement, by batch."""
FOUND = 8
QUESTIONS = 120
LEAST_RECALL = 0.95


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embeddings", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"), help="of torch")
    parser.add_argument("--folder", type=Path, default=Path("out"), help="a folder on a real disk")
    parser.add_argument("--passages", type=int, help="only so many of them; all of them take minutes")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    machine = describe(options.folder, ("torch", "onnxruntime"))
    torch.set_num_threads(machine.cores)
    path = embedded_embedder_path()
    sides = {
        OURS: SentenceEmbedder.load(path, machine.cores, options.dtype),
        ONNX: load_onnx_embedder(path, options.folder / "onnx", machine.cores),
    }
    passages = _passages()[: options.passages]
    rows = asyncio.run(_speeds(sides, passages, options.rounds))
    exact = SentenceEmbedder.load(path, machine.cores, "float32")
    found = _recalls(exact, sides, passages)
    rows.append(row(f"recall@{FOUND}", "share", found[OURS], ONNX, found[ONNX], better="more"))
    targets = [Target(f"recall@{FOUND} of {ONNX}", "share", round(found[ONNX], 4), "at_least", LEAST_RECALL)]
    show(f"Embeddings ({options.dtype} in torch)", rows, targets)
    if options.json is not None:
        details = {"dtype": options.dtype, "passages": len(passages), "questions": QUESTIONS}
        write(options.json, machine, rows, targets, details)
    return 0


def _passages() -> list[str]:
    files = sorted({file for pattern in DOCUMENTS for file in ROOT.glob(pattern)})
    texts = [file.read_text(encoding="utf-8") for file in files]
    return [text[span.start : span.end] for text in texts for span in split(text)]


async def _speeds(sides: dict[str, SentenceEmbedder], passages: Sequence[str], rounds: int) -> list[Row]:
    rows: list[Row] = []
    for batch in BATCHES:
        texts = passages[: TEXTS[batch]]
        figures = await in_turn({name: _side(side, texts, batch) for name, side in sides.items()}, rounds)
        rows += compare(f"batch {batch}", "texts/s", figures, OURS)
    return rows


def _side(embedder: SentenceEmbedder, texts: Sequence[str], batch: int) -> Side:
    async def measure() -> float:
        embedder.encode(texts[:batch])
        began = time.perf_counter()
        for start in range(0, len(texts), batch):
            embedder.encode(texts[start : start + batch])
        return len(texts) / (time.perf_counter() - began)

    return measure


def _recalls(
    exact: SentenceEmbedder, sides: dict[str, SentenceEmbedder], passages: Sequence[str]
) -> dict[str, float]:
    """Of what the exact vectors find for each question, the share that a side finds with its own."""
    questions = _questions(passages)
    wanted = _nearest(exact, questions, passages)
    recalls = {}
    for name, side in sides.items():
        given = _nearest(side, questions, passages)
        shares = [len(set(w) & set(g)) / FOUND for w, g in zip(wanted, given, strict=True)]
        recalls[name] = float(np.mean(shares))
    return recalls


def _questions(passages: Sequence[str]) -> list[str]:
    """A sentence from the middle of every so many-th passage."""
    sentences = [passage.replace("\n", " ").split(". ") for passage in passages]
    middles = [parts[len(parts) // 2] for parts in sentences if len(parts) > 1]
    long_enough = [sentence for sentence in middles if len(sentence) > 30]
    return long_enough[:: max(1, len(long_enough) // QUESTIONS)][:QUESTIONS]


def _nearest(
    embedder: SentenceEmbedder, questions: Sequence[str], passages: Sequence[str]
) -> NDArray[np.int64]:
    """Indices of the `FOUND` nearest passages, [questions, FOUND]."""
    likeness = embedder.encode(questions) @ embedder.encode(passages).T
    return np.argsort(-likeness, axis=1)[:, :FOUND]


if __name__ == "__main__":
    sys.exit(main())
