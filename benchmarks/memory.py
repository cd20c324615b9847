"""The memory of every process of a platform that this process has started, sampled, and whether it grows."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import psutil

from benchmarks.trend import Trend, trend

GROWS_MIB = 1.0
"""A minute: what a process may gain at most and still be called flat."""
WARM_UP_SHARE = 0.2
"""Of the time: caches fill and pools find their size, which a slope would take for a leak."""
LEAST_SAMPLES = 10
NOT_OURS = "benchmarks.lean_load"
MIB = 2**20


@dataclass(slots=True)
class Sampled:
    """One process: `seconds` since the sampling began, and `mib` of memory that is its own (USS)."""

    name: str
    seconds: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Growth:
    """MiB a minute of one process, and what it had at the end."""

    name: str
    mib: float
    a_minute: Trend


class Memory:
    """`sample` adds one sample of each process. It asks the kernel, about 1 ms for each."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._found: dict[int, Sampled] = {}

    def sample(self) -> None:
        now = time.monotonic() - self._began
        for process, name in _family():
            with contextlib.suppress(psutil.Error):
                mib = process.memory_full_info().uss / MIB
                sampled = self._found.setdefault(process.pid, Sampled(name))
                # A worker that idles gets its name when it gets its work.
                sampled.name = name
                sampled.seconds.append(now)
                sampled.mib.append(mib)

    def growths(self) -> list[Growth]:
        return growths(list(self._found.values()))

    def total_mib(self) -> float:
        """What all that still live have for themselves."""
        last = max((s.seconds[-1] for s in self._found.values()), default=0.0)
        return sum(s.mib[-1] for s in self._found.values() if s.seconds[-1] == last)


def growths(sampled: Sequence[Sampled]) -> list[Growth]:
    """Of those that lived through all of it but the warm-up; the fastest first. Equal names are numbered."""
    ends = max((s.seconds[-1] for s in sampled), default=0.0)
    begins = ends * WARM_UP_SHARE
    found = []
    seen: Counter[str] = Counter()
    for one in sampled:
        kept = [(s / 60, m) for s, m in zip(one.seconds, one.mib, strict=True) if s >= begins]
        if one.seconds[0] > begins or one.seconds[-1] < ends or len(kept) < LEAST_SAMPLES:
            continue
        seen[one.name] += 1
        name = one.name if seen[one.name] == 1 else f"{one.name} {seen[one.name]}"
        minutes, mib = zip(*kept, strict=True)
        found.append(Growth(name, one.mib[-1], trend(minutes, mib)))
    return sorted(found, key=lambda growth: -growth.a_minute.high)


def verdicts(found: Sequence[Growth]) -> Mapping[str, list[str]]:
    """Names by what is known of them: `flat`, `grows`, `unclear`."""
    told: dict[str, list[str]] = {"flat": [], "grows": [], "unclear": []}
    for growth in found:
        told[growth.a_minute.verdict(GROWS_MIB)].append(growth.name)
    return told


def _family() -> Iterator[tuple[psutil.Process, str]]:
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if words and NOT_OURS not in words:
                yield process, title(words)


def title(words: Sequence[str]) -> str:
    """What a process is, by its command line: Ray's actors call themselves so, others are named by their program."""
    text = " ".join(words).strip()
    if text.startswith("ray::"):
        return text.removeprefix("ray::").split(".")[0].split("(")[0]
    programs = [word.rsplit("/", 1)[-1] for word in words if not word.startswith("-")]
    if programs[0].startswith("python") and len(programs) > 1:
        return programs[1]
    return programs[0] if programs else text
