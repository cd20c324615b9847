"""The engine's compiled matrix products against torch's, over the shapes of the embedded model's layers.

    python -m benchmarks.kernels --json out/kernels.json

Rows `fp32 N`: N rows through the products of several layers, each with weights of its own, so that they come from
memory as in a step; GFLOP/s. `int8 N`: the same with weights in 8 bits; torch's sees activations in 7 or 8 bits, ours
in 13 to 16. Nothing else of a step is in it. Where the kernels cannot be had, this says so and ends with 1.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from ctypes import CDLL
from pathlib import Path

import torch

from benchmarks.harness import Row, Side, compare, in_turn, show, write
from benchmarks.machine import describe
from manta.sizing.catalogue import EMBEDDED_MODEL, MODELS
from serve_app.engine.linear import Int8Linear, Linear, LinearKind, Product
from serve_app.engine.native.build import library
from serve_app.engine.native.product import NativeInt8Linear, NativeLinear

LAYERS = 30
"""As many as the model has: also in 8 bits their weights are more than a processor keeps near by."""
ROWS = (1, 4, 16, 32, 512)
LEAST_S = 0.3
"""A measurement repeats the products until it took so long."""

Layers = Sequence[Sequence[Product]]


def sizes() -> list[tuple[int, int]]:
    """[out, in] of a layer's four matrices."""
    shape = MODELS[EMBEDDED_MODEL]
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return [
        (queries + 2 * keys, shape.hidden),
        (shape.hidden, queries),
        (2 * shape.feed_forward, shape.hidden),
        (shape.hidden, shape.feed_forward),
    ]


def made(kind: LinearKind, matrices: Sequence[Sequence[torch.Tensor]]) -> Layers:
    return [[kind(matrix, None) for matrix in layer] for layer in matrices]


def sides(native: CDLL) -> dict[str, dict[str, Layers]]:
    """By kind of weight: ours and torch's."""
    generator = torch.Generator().manual_seed(1)
    matrices = [[torch.randn(size, generator=generator) for size in sizes()] for _ in range(LAYERS)]
    return {
        "fp32": {
            "ours": made(lambda weight, bias: NativeLinear(native, weight, bias), matrices),
            "torch": made(Linear, matrices),
        },
        "int8": {
            "ours": made(lambda weight, bias: NativeInt8Linear(native, weight, bias), matrices),
            "torch": made(Int8Linear, matrices),
        },
    }


def throughput(layers: Layers, count: int) -> float:
    """GFLOP/s of `count` rows through all products."""
    inputs = [torch.randn(count, width) for _, width in sizes()]
    flop = 2 * count * len(layers) * sum(out * width for out, width in sizes())
    return flop / _seconds(lambda: _through(layers, inputs)) / 1e9


def _through(layers: Layers, inputs: Sequence[torch.Tensor]) -> None:
    for layer in layers:
        for product, rows in zip(layer, inputs, strict=True):
            product(rows)


def _seconds(work: Callable[[], None]) -> float:
    """Of one time, as the mean of many."""
    work()
    times, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < LEAST_S:
        work()
        times += 1
    return taken / times


def _side(layers: Layers, count: int) -> Side:
    async def measured() -> float:
        with torch.inference_mode():
            return throughput(layers, count)

    return measured


async def measure(native: CDLL, rounds: int) -> list[Row]:
    rows: list[Row] = []
    for kind, both in sides(native).items():
        for count in ROWS:
            figures = await in_turn({name: _side(layers, count) for name, layers in both.items()}, rounds)
            rows += compare(f"{kind} {count}", "GFLOP/s", figures, "ours")
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side")
    parser.add_argument("--folder", type=Path, default=Path("out/benchmarks"), help="a folder on a real disk")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    native = library()
    if native is None:
        print("error: there are no compiled kernels here; the engine's log says why", file=sys.stderr)
        return 1
    machine = describe(options.folder, ("torch",))
    torch.set_num_threads(machine.cores)
    rows = asyncio.run(measure(native, options.rounds))
    show("Matrix products", rows, ())
    if options.json is not None:
        write(options.json, machine, rows, (), {"layers": LAYERS})
    return 0


if __name__ == "__main__":
    sys.exit(main())
