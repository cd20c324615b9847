"""GPUs by their makers' data sheets, and what they are compared by.

Rates are dense, without sparsity: where a sheet prints the sparse rate, half of it. A sheet's GB are taken as
10^9 bytes, which is at most 7 % less than the card has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

from manta.errors import NotFound

GB = 1e9
TERA = 1e12


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Shares of the stated rates that a running engine reaches. `source` says where they come from."""

    bandwidth: float
    compute: float
    link: float
    source: str


SHEET = Efficiency(
    0.75,
    0.35,
    0.65,
    "bandwidth: 77 % measured for Llama-3.1-8B with vLLM 0.23 on an A100 (johnmusgrave.com/p/"
    "vllm-throughput-latency-sweep-on). compute: fitted to Red Hat's MLPerf 5.1 results for H100 and L40S. "
    "link: calculon-ai/calculon, systems/a100_80g.json",
)
MEASURED = Efficiency(
    0.9,
    0.9,
    1.0,
    "matrix products are 80 to 100 % of a compiled decode step, by the clock, at 1 to 32 sequences",
)


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU, or a machine that was measured.

    `memory` in bytes, `bandwidth` and `link` (to another GPU, one way) in bytes/s, `flops` by type of weight in
    FLOP/s. `curve`: (rows, FLOP/s) of measured matrix products, by rising rows; empty for a data sheet.
    """

    name: str
    memory: float
    bandwidth: float
    flops: dict[str, float]
    link: float
    source: str
    efficiency: Efficiency = SHEET
    curve: tuple[tuple[int, float], ...] = ()

    def peak(self, dtype: str, rows: float) -> float:
        """FLOP/s of a product of so many rows with weights of this type; 0 where the type cannot be used."""
        if not self.curve:
            return self.flops.get(dtype, 0.0)
        return interpolated(self.curve, rows) if dtype in self.flops else 0.0

    def rejects(self, dtype: str) -> str:
        """Why weights of this type do not run here; empty where they do."""
        if self.flops.get(dtype):
            return ""
        return f"{dtype} is not reckoned for it (known: {', '.join(self.flops)})"


def interpolated(curve: Sequence[tuple[int, float]], rows: float) -> float:
    """The value at `rows` on a line through the curve's points, rows on a logarithmic scale; level outside it."""
    if rows <= curve[0][0]:
        return curve[0][1]
    for (low, at_low), (high, at_high) in pairwise(curve):
        if rows <= high:
            return at_low + (at_high - at_low) * log(rows / low) / log(high / low)
    return curve[-1][1]


def _gpu(
    name: str, memory_gb: float, bandwidth_gb: float, rates: tuple[float, float], link_gb: float, source: str
) -> Device:
    """`rates`: dense tera-FLOP/s in 16 and in 8 bits; without 8-bit units weights of 8 bits compute in 16."""
    wide, narrow = (rate * TERA for rate in rates)
    flops = {"bf16": wide, "fp8": narrow or wide, "int8": narrow or wide, "int4": wide}
    return Device(name, memory_gb * GB, bandwidth_gb * GB, flops, link_gb * GB, source)


_GPUS = (
    _gpu("T4", 16, 320, (65, 0), 16, "NVIDIA T4 product brief PB-09256 (fp16; it has no bf16)"),
    _gpu("A10G", 24, 600, (70, 0), 32, "NVIDIA A10G data sheet for AWS, 2022-02"),
    _gpu("L4", 24, 300, (121, 242.5), 32, "NVIDIA L4 data sheet"),
    _gpu("RTX4090", 24, 1008, (165.2, 330.3), 32, "NVIDIA Ada GPU architecture white paper, appendix A"),
    _gpu("A100-40GB", 40, 1555, (312, 0), 300, "NVIDIA A100 data sheet, SXM 40 GB"),
    _gpu("L40S", 48, 864, (362, 733), 32, "NVIDIA L40S data sheet"),
    _gpu("A100-80GB", 80, 2039, (312, 0), 300, "NVIDIA A100 data sheet, SXM 80 GB"),
    _gpu("H100-PCIE", 80, 2000, (756, 1513), 64, "NVIDIA H100 data sheet, PCIe"),
    _gpu("H100", 80, 3350, (989, 1979), 450, "NVIDIA H100 data sheet, SXM"),
    _gpu("H200", 141, 4800, (989, 1979), 450, "NVIDIA H200 data sheet, SXM"),
    _gpu("B200", 180, 8000, (2250, 4500), 900, "NVIDIA HGX B200 data sheet"),
)
GPUS = {device.name: device for device in _GPUS}


def gpu(name: str) -> Device:
    """A GPU by its name, in any case; `H100-SXM` is `H100`. Raises NotFound."""
    wanted = name.upper().replace("_", "-").replace(" ", "-").removesuffix("-SXM")
    wanted = {"A100": "A100-80GB", "RTX-4090": "RTX4090"}.get(wanted, wanted)
    if wanted not in GPUS:
        raise NotFound(f"no GPU {name!r} is known", fix=f"one of: {', '.join(GPUS)}", code="unknown_gpu")
    return GPUS[wanted]
