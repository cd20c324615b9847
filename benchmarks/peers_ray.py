"""Bare Ray actor calls: what a step costs when nothing is kept, retried, limited or watched."""

import asyncio
import time
from typing import Any

import ray


class BareStep:
    """An actor whose method is one step, and nothing else."""

    async def step(self, value: dict[str, int]) -> dict[str, int]:
        return {"n": value["n"] + 1}


class BareCaller:
    """An actor that drives chains over other actors, each step one call."""

    def __init__(self, members: list[Any]) -> None:
        self._members = members

    async def drive(self, runs: int, steps: int, in_flight: int) -> float:
        """Seconds for `runs` chains."""
        free = asyncio.Semaphore(in_flight)

        async def run(index: int) -> None:
            async with free:
                value = {"n": 0}
                for step in range(steps):
                    member = self._members[(index + step) % len(self._members)]
                    value = await member.step.remote(value)
                if value["n"] != steps:
                    raise RuntimeError(f"a chain ended at {value}")

        began = time.perf_counter()
        await asyncio.gather(*(run(index) for index in range(runs)))
        return time.perf_counter() - began


def bare_caller(agents: int, concurrency: int) -> Any:
    """A caller over `agents` actors that work on `concurrency` calls at once, as our pools do."""
    step: Any = ray.remote(BareStep)
    members = [step.options(num_cpus=0.1, max_concurrency=concurrency).remote() for _ in range(agents)]
    caller: Any = ray.remote(BareCaller)
    return caller.options(num_cpus=0.1).remote(members)
