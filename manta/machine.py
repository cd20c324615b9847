"""What this machine has to spare, as far as it can be known without asking anybody."""

import os
from pathlib import Path

import psutil

GIB = 2**30


def available_memory(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that may still be taken: the machine's, or less where a control group sets a limit.

    Args:
        group: the control group's folder (version 2).
    """
    free: int = psutil.virtual_memory().available
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # Pages of files are given back when they are needed; shared memory, counted among them, is not.
        reclaimable = int(counts["file"]) - int(counts["shmem"])
        return free if limit == "max" else min(free, int(limit) - used + reclaimable)
    except (OSError, ValueError, KeyError):
        return free


def usable_cores() -> int:
    """Processor cores that this process may use. Ray tells a replica with a fraction of a CPU to use one thread."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
