"""The machine a figure was measured on: what a reader needs to compare it with their own."""

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

FLUSHES = 60
IN_MEMORY = frozenset({"tmpfs", "ramfs"})
"""File systems on which a flush costs nothing, so that durability would seem free."""


@dataclass(frozen=True, slots=True)
class Machine:
    """`flush_ms`: median of a 4 KiB append and fsync in the folder of the benchmark; `load`: before it began."""

    cpu: str
    cores: int
    memory_gib: float
    system: str
    python: str
    packages: dict[str, str]
    file_system: str
    flush_ms: float
    load: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def describe(folder: Path, packages: Sequence[str]) -> Machine:
    """The machine as it is now. `folder` must be on a real disk.

    Raises:
        ValueError: the folder lies in memory.
    """
    kind = file_system(folder)
    if kind in IN_MEMORY:
        raise ValueError(f"{folder} is on {kind}: choose a folder on a disk, by --folder")
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages={name: version(name) for name in packages},
        file_system=kind,
        flush_ms=round(flush_ms(folder), 3),
        load=round(os.getloadavg()[0], 2),
    )


def file_system(folder: Path) -> str:
    """The type of the file system that `folder` lies on, `ext4` say."""
    path = str(folder.resolve())
    mounts = [p for p in psutil.disk_partitions(all=True) if _under(path, p.mountpoint)]
    return max(mounts, key=lambda p: len(p.mountpoint)).fstype if mounts else "unknown"


def flush_ms(folder: Path) -> float:
    """Median milliseconds of appending 4 KiB to a file and flushing it."""
    block, times = os.urandom(4096), []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(FLUSHES):
            began = time.perf_counter()
            file.write(block)
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def _under(path: str, mount: str) -> bool:
    return path == mount or path.startswith(mount.rstrip("/") + "/")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
