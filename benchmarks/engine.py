"""The torch engine against transformers' continuous batching, in one process, the same checkpoint, in turn.

    python -m benchmarks.engine --json out/engine.json

Rows `decode N`: N prompts of about 40 tokens at once, 64 new tokens each, tokens/s. `prefill`: one prompt of
512 tokens, prompt tokens/s. `shared prefix`: a 1,000-token beginning that was seen before, as a share of the
time to compute it (`peer` is our own engine without the earlier request).
"""

import argparse
import asyncio
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.harness import Row, Side, Target, in_turn, percentile, row, show, write
from benchmarks.machine import describe
from benchmarks.peer_transformers import TransformersPeer
from serve_app.engine.engine import Engine
from serve_app.engine.types import EngineConfig, EngineOutput, GenerationRequest, SamplingParams
from serve_app.engine.weights import embedded_llm_path

NEW_TOKENS = 64
AT_ONCE = (1, 4, 16, 32)
PREFILL = 512
SHARED = 1000
LEAST = {"decode 1": 8.0, "decode 16": 2.8, "decode 32": 2.8, "prefill": 1.0}
MOST_SHARED = 0.05
WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "it",
    "was",
    "for",
    "on",
    "are",
    "as",
    "with",
    "his",
    "they",
    "at",
    "be",
    "this",
    "from",
    "have",
]


class Clocked:
    """Receives the outputs of several requests: when each token came, and the end of all."""

    def __init__(self, requests: int) -> None:
        self.began = time.perf_counter()
        self.first: list[float] = []
        self.gaps: list[float] = []
        self.tokens = 0
        self._last: dict[str, float] = {}
        self._left = requests
        self._ended = threading.Event()

    def __call__(self, output: EngineOutput) -> None:
        now = time.perf_counter()
        before = self._last.get(output.request_id)
        if output.token_ids and before is None:
            self.first.append(now - self.began)
        elif output.token_ids and before is not None:
            self.gaps.append(now - before)
        self._last[output.request_id] = now
        self.tokens += len(output.token_ids)
        if output.finish_reason is not None:
            self._left -= 1
            if self._left == 0:
                self._ended.set()

    def wait(self) -> float:
        """Seconds until all had ended."""
        if not self._ended.wait(600):
            raise TimeoutError("the engine did not finish")
        return time.perf_counter() - self.began


class OurSide:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._round = 0
        self.gaps: dict[int, list[float]] = {}
        self.first: dict[int, list[float]] = {}

    def decode(self, at_once: int) -> float:
        """Tokens per second."""
        heard = self._run([self.prompt(40, salt) for salt in range(at_once)], NEW_TOKENS)
        self.gaps.setdefault(at_once, []).extend(heard[0].gaps)
        self.first.setdefault(at_once, []).extend(heard[0].first)
        return heard[0].tokens / heard[1]

    def prefill(self) -> float:
        """Prompt tokens per second."""
        return PREFILL / self._run([self.prompt(PREFILL, 0)], 1)[1]

    def shared(self) -> tuple[float, float]:
        """Seconds to the first token of a prompt, fresh and with its beginning known."""
        fresh = self.prompt(SHARED + 8, 0)
        again = [*fresh[:SHARED], *self.prompt(8, 1)]
        return self._run([fresh], 1)[1], self._run([again], 1)[1]

    def prompt(self, length: int, salt: int) -> list[int]:
        """Ids that begin differently each time, so that nothing is shared unless it is meant to be."""
        self._round += 1
        words = [WORDS[(index * (salt + 3) + self._round) % len(WORDS)] for index in range(length)]
        ids = self._engine.encode(f"{self._round} {salt} " + " ".join(words))
        return ids[:length]

    def _run(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> tuple[Clocked, float]:
        params = SamplingParams(max_tokens=new_tokens, ignore_eos=True)
        heard = Clocked(len(prompts))
        for index, ids in enumerate(prompts):
            id = f"{self._round}-{index}"
            self._engine.submit(GenerationRequest(id, tuple(ids), params), heard)
        return heard, heard.wait()


async def measure(engine: Engine, peer: TransformersPeer, rounds: int) -> tuple[list[Row], dict[str, Any]]:
    ours = OurSide(engine)

    async def decode_ours(at_once: int) -> float:
        return ours.decode(at_once)

    async def decode_theirs(at_once: int) -> float:
        return peer.decode([ours.prompt(40, salt) for salt in range(at_once)], NEW_TOKENS)

    async def prefill_ours() -> float:
        return ours.prefill()

    async def prefill_theirs() -> float:
        return peer.prefill(ours.prompt(PREFILL, 0))

    ours.decode(2), peer.decode([ours.prompt(40, 0)], 4)
    rows = []
    for at_once in AT_ONCE:
        sides: dict[str, Side] = {
            "ours": partial(decode_ours, at_once),
            peer.name: partial(decode_theirs, at_once),
        }
        rows.append(_row(f"decode {at_once}", "tokens/s", await in_turn(sides, rounds), peer.name))
    sides = {"ours": prefill_ours, peer.name: prefill_theirs}
    rows.append(_row("prefill", "tokens/s", await in_turn(sides, rounds), peer.name))
    pairs = [ours.shared() for _ in range(rounds)]
    fresh, again = (statistics.median(side) for side in zip(*pairs, strict=True))
    rows.append(row("shared prefix", "s", again, "fresh", fresh, better="less"))
    return rows, _latencies(ours)


def _row(case: str, unit: str, figures: dict[str, list[float]], peer: str) -> Row:
    ours, theirs = statistics.median(figures["ours"]), statistics.median(figures[peer])
    return row(case, unit, ours, peer, theirs, better="more")


def _latencies(ours: OurSide) -> dict[str, Any]:
    """Milliseconds, by how many ran at once."""
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {
        str(at_once): {
            "first_token_ms": round(statistics.median(ours.first[at_once]) * 1000, 1),
            **{f"gap_{name}_ms": round(percentile(gaps, share) * 1000, 1) for name, share in shares.items()},
        }
        for at_once, gaps in ours.gaps.items()
    }


def targets(rows: Sequence[Row]) -> list[Target]:
    found = [Target(r.case, "x", r.ratio, "at_least", LEAST[r.case]) for r in rows if r.case in LEAST]
    shared = next(r for r in rows if r.case == "shared prefix")
    return [
        *found,
        Target("shared prefix", "of computing", round(shared.ours / shared.peer, 4), "at_most", MOST_SHARED),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quantize", default="mixed", choices=("none", "int8", "int4", "mixed"))
    parser.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16"), help="the peer's, and ours"
    )
    parser.add_argument("--folder", type=Path, default=Path("out"), help="a folder on a real disk")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    machine = describe(options.folder, ("torch", "transformers"))
    threads = machine.cores
    torch.set_num_threads(threads)
    dtype = options.dtype if options.quantize == "none" else "float32"
    config = EngineConfig(
        dtype=dtype, threads=threads, max_batch=max(AT_ONCE), kv_tokens=8192, quantize=options.quantize
    )
    engine = Engine.load(embedded_llm_path(), config)
    engine.start()
    own_memory = psutil.Process().memory_info().rss
    peer = TransformersPeer(embedded_llm_path(), getattr(torch, options.dtype))
    try:
        rows, latencies = asyncio.run(measure(engine, peer, options.rounds))
    finally:
        engine.stop()
    reached = targets(rows)
    show(f"Engine ({options.quantize}) and {peer.name} ({options.dtype})", rows, reached)
    if options.json is not None:
        details = {
            "quantize": options.quantize,
            "peer_dtype": options.dtype,
            "latencies": latencies,
            "own_memory_mib": round(own_memory / 2**20),
        }
        write(options.json, machine, rows, reached, details)
    return 0


if __name__ == "__main__":
    sys.exit(main())
