"""The loads of a soak: trials for the knee, then the long one with everything that is sampled beside it."""

import asyncio
import contextlib
import dataclasses
import random
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmarks.knee import Trial, knee, next_rate
from benchmarks.lean_load import Order
from benchmarks.lean_process import End, Heard, Timed, hear, lines
from benchmarks.memory import Memory

MEMORY_S = 5.0
SLOTS_S = 1.0
TOLD_S = 60.0
PRECISION = 0.15
WARM_UP_S = 5.0
REST_S = 2.0


class Replicas(Protocol):
    """What the model's replicas count; each tells how many requests are `running` in it."""

    async def stats(self) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds of the soak and of a trial, the rate to try first (requests/s), seconds to the first text that an
    answer may take.
    """

    seconds: float
    trial_seconds: float
    start_rate: float
    bound_s: float
    seed: int


@dataclass(slots=True)
class Seen:
    """What a soak has gathered so far."""

    answers: list[Timed] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)
    end: End | None = None


class Soak:
    """`stop` is set by Ctrl-C: the load that runs ends, and no other begins."""

    def __init__(self, order: Order, plan: Plan, stop: asyncio.Event) -> None:
        self._order = order
        self._plan = plan
        self._stop = stop
        self._chance = random.Random(plan.seed)
        self.trials: list[Trial] = []

    async def find_knee(self) -> float:
        """Requests/s; 0 where no rate is carried, or it was stopped before one was."""
        plan = self._plan
        await self._load(plan.start_rate, min(WARM_UP_S, plan.trial_seconds))
        while not self._stop.is_set():
            rate = next_rate(self.trials, plan.start_rate, PRECISION)
            if rate is None:
                break
            heard = await self._load(rate, plan.trial_seconds)
            if self._stop.is_set():
                break
            self.trials.append(tried(rate, heard, plan.bound_s))
            print(f"  {rate:.2f}/s: {100 * self.trials[-1].good:.1f} % answered in time", flush=True)
            await asyncio.sleep(min(REST_S, plan.trial_seconds))
        return knee(self.trials)

    async def _load(self, rate: float, seconds: float) -> Heard:
        order = dataclasses.replace(
            self._order, rate=rate, seconds=seconds, seed=self._chance.getrandbits(32)
        )
        return await hear(order, self._stop)

    async def run(self, rate: float, replicas: Replicas) -> Seen:
        """The plan's seconds at this rate, or until it is stopped."""
        seen = Seen()
        order = dataclasses.replace(self._order, rate=rate, seconds=self._plan.seconds, seed=self._plan.seed)

        async def busy() -> None:
            seen.busy.append(float(sum(told["running"] for told in await replicas.stats())))

        async def memory() -> None:
            await asyncio.to_thread(seen.memory.sample)

        async with (
            _repeated(busy, SLOTS_S),
            _repeated(memory, MEMORY_S),
            _repeated(lambda: _tell(seen), TOLD_S),
            contextlib.aclosing(lines(order, self._stop)) as told,
        ):
            async for piece in told:
                if isinstance(piece, End):
                    seen.end = piece
                else:
                    seen.answers += piece
        return seen


def tried(rate: float, heard: Heard, bound_s: float) -> Trial:
    """What is not whole, or began too late, is not carried."""
    good = sum(answer.first <= bound_s for answer in heard.good)
    return Trial(rate, good / len(heard.answers) if heard.answers else 0.0)


@contextlib.asynccontextmanager
async def _repeated(work: Callable[[], Awaitable[None]], pause_s: float) -> AsyncGenerator[None]:
    """`work` again and again beside the body; what fails of it is told and tried again."""

    async def go_on() -> None:
        while True:
            try:
                await work()
            except Exception as error:
                print(f"  a sample is missing: {error}", file=sys.stderr)
            await asyncio.sleep(pause_s)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _tell(seen: Seen) -> None:
    if seen.answers:
        failed = sum(bool(timed.answer.fault) for timed in seen.answers)
        minutes, mib = seen.answers[-1].since / 60, seen.memory.total_mib()
        print(f"  {minutes:.1f} min: {len(seen.answers)} asked, {failed} failed, {mib:.0f} MiB", flush=True)
