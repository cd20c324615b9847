"""Measures this machine: how fast numpy multiplies by weights of a model's own sizes, in fp32.

The weights of a few layers, enough to be larger than the caches, are gone through as a step does: for one row
the time is that of reading them, for many that of computing. Narrow matrices reach less than wide ones, so the
sizes are the model's own.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from manta.errors import InvalidInput, PlatformError
from manta.sizing.devices import MEASURED, Device
from manta.sizing.shapes import ModelShape

MIB = 2**20
HELD = 160 * MIB
"""Bytes of weights that are gone through: more than the caches of one processor's share."""
ROWS = (1, 4, 16, 64, 256)
NAME = "this-machine"


@dataclass(frozen=True, slots=True)
class Calibration:
    """`curve`: (rows, FLOP/s). `bandwidth`: bytes/s of weights with one row. `memory`: bytes free when measured."""

    model: str
    memory: float
    bandwidth: float
    curve: tuple[tuple[int, float], ...]

    def device(self) -> Device:
        return Device(
            name=NAME,
            memory=self.memory,
            bandwidth=self.bandwidth,
            flops={"fp32": self.curve[-1][1]},
            link=self.bandwidth,
            source=f"measured here with matrices of the sizes of {self.model}, fp32",
            efficiency=MEASURED,
            curve=self.curve,
        )


def calibrate(
    shape: ModelShape, memory: float, clock: Callable[[], float] = time.perf_counter, rounds: int = 3
) -> Calibration:
    """Measure; takes some seconds. Uses the threads that numpy's BLAS uses.

    Args:
        memory: bytes a model may take here.

    Raises:
        PlatformError: numpy is not installed.
    """
    try:
        import numpy as np
    except ImportError:
        raise PlatformError("calibration needs numpy", fix="pip install 'manta[platform]'") from None
    random = np.random.default_rng(0)
    weights = [random.standard_normal(size, dtype=np.float32) for size in _sizes(shape)]
    held = sum(weight.nbytes for weight in weights)
    times: dict[int, list[float]] = {rows: [] for rows in ROWS}
    for _ in range(rounds):
        for rows in ROWS:
            inputs = {
                width: random.standard_normal((rows, width), dtype=np.float32)
                for width in {weight.shape[1] for weight in weights}
            }
            began = clock()
            for weight in weights:
                np.dot(inputs[weight.shape[1]], weight.T)
            times[rows].append(clock() - began)
    middle = {rows: max(statistics.median(found), 1e-9) for rows, found in times.items()}
    curve = tuple((rows, 2 * rows * (held / 4) / middle[rows]) for rows in ROWS)
    return Calibration(shape.name, memory, held / middle[1], curve)


def _sizes(shape: ModelShape) -> list[tuple[int, int]]:
    """(out, in) of whole layers until `HELD` bytes are there; one layer of a wide model may be more."""
    heads = shape.head_dim * (shape.heads + 2 * shape.kv_heads)
    layer = [
        (heads, shape.hidden),
        (shape.hidden, shape.head_dim * shape.heads),
        (2 * shape.feed_forward, shape.hidden),
        (shape.hidden, shape.feed_forward),
    ]
    held = 4 * sum(rows * width for rows, width in layer)
    return layer * max(1, -(-HELD // held))


def save(calibration: Calibration, file: Path) -> None:
    """Keep it for later calls."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(calibration)) + "\n")


def load(file: Path) -> Calibration | None:
    """What was kept; None where nothing was. Raises InvalidInput for a file that is something else."""
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text())
        curve = tuple((int(rows), float(rate)) for rows, rate in found["curve"])
        if not curve:
            raise ValueError("the curve is empty")
        return Calibration(str(found["model"]), float(found["memory"]), float(found["bandwidth"]), curve)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{file} is no calibration: {error}", fix="manta gpus MODEL --calibrate") from None
