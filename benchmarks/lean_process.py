"""The process that makes a load, as its parent sees it: an order goes in, answers come out while it runs."""

import asyncio
import dataclasses
import json
import statistics
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import percentile
from benchmarks.lean_client import Answer
from benchmarks.lean_load import Order

LINE_LIMIT = 1 << 24
GRACE_S = 90.0
"""For what is under way when a load is stopped; more than one request waits."""


@dataclass(frozen=True, slots=True)
class Timed:
    """An answer, and the moment its request was due, in seconds since the load began."""

    since: float
    answer: Answer


@dataclass(frozen=True, slots=True)
class End:
    """How a load ended. `cpu_s`: processor time the client itself took; `late_s`: see `lean_load.Tally`."""

    seconds: float
    asked: int
    cpu_s: float
    late_s: float


@dataclass(frozen=True, slots=True)
class Heard:
    answers: Sequence[Timed]
    end: End

    @property
    def good(self) -> list[Answer]:
        return [timed.answer for timed in self.answers if not timed.answer.fault]

    @property
    def faults(self) -> list[str]:
        return [timed.answer.fault for timed in self.answers if timed.answer.fault]

    @property
    def rate(self) -> float:
        """Whole answers a second."""
        return len(self.good) / self.end.seconds

    def first(self, share: float) -> float:
        """A percentile of the seconds to the first text. Raises ValueError where nothing was answered."""
        return percentile((answer.first for answer in self.good), share)

    def median_whole(self) -> float:
        return statistics.median(answer.whole for answer in self.good)

    def median_first(self) -> float:
        return statistics.median(answer.first for answer in self.good)


async def lines(order: Order, stop: asyncio.Event | None = None) -> AsyncGenerator[list[Timed] | End, None]:
    """Answers as they come, the end at last. Once `stop` is set nothing new is asked.

    Raises RuntimeError: the process ended before its load did.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.lean_load",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_LIMIT,
        # Ctrl-C is for whoever started it: it ends by its stdin, with all that is under way told.
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stopping = asyncio.create_task(_close_when(stop, process.stdin))
    try:
        process.stdin.write(json.dumps(dataclasses.asdict(order)).encode() + b"\n")
        async for line in process.stdout:
            told: dict[str, Any] = json.loads(line)
            if "end" in told:
                yield End(**told["end"])
                return
            yield [Timed(since, Answer(*rest)) for since, *rest in told["answers"]]
        raise RuntimeError("the load's process ended early")
    finally:
        stopping.cancel()
        process.stdin.close()
        if process.returncode is None:
            await _ended(process)


async def _close_when(stop: asyncio.Event | None, stdin: asyncio.StreamWriter) -> None:
    if stop is not None:
        await stop.wait()
        stdin.close()


async def _ended(process: asyncio.subprocess.Process) -> None:
    try:
        async with asyncio.timeout(GRACE_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def hear(order: Order, stop: asyncio.Event | None = None) -> Heard:
    """The whole load."""
    answers: list[Timed] = []
    async with aclosing(lines(order, stop)) as told:
        async for piece in told:
            if isinstance(piece, End):
                return Heard(answers, piece)
            answers += piece
    raise RuntimeError("the load told no end")
