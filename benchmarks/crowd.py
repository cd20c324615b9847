"""A crowd of runs on one coordinator: most wait for a person, some are at work."""

import asyncio
import signal
import time
from collections import Counter
from dataclasses import asdict, dataclass

from benchmarks import oracle
from benchmarks.platform import AGENT, SUBMITS_AT_ONCE, Platform, pool
from benchmarks.workspace import Workspace
from manta.graph import Graph, parse_graph
from manta.ids import DEFAULT_TENANT, RunId

AGENTS = 2
WARM_UP = 50
SETTLE_S = 2.0
LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Sizes:
    """`samples` of the waiting runs are submitted one by one, and as many again once all are there."""

    waiting: int
    active: int
    samples: int

    @property
    def all_runs(self) -> int:
        return WARM_UP + max(self.waiting, self.samples) + self.active + self.samples

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def approval() -> Graph:
    return parse_graph({"name": "asks", "steps": [{"id": "ask", "approval": {"question": "Go on?"}}]})


def held() -> Graph:
    step = {"id": "hold", "agent": AGENT, "input": {"until": "${input.until}"}, "timeout_s": 3600}
    return parse_graph({"name": "held", "steps": [step]})


class Crowd:
    def __init__(self, space: Workspace, sizes: Sizes) -> None:
        self.sizes = sizes
        self._ledger = space.ledger
        self._release = space.folder / "release"
        # What a killed coordinator leaves behind keeps its places at the agents until it ends.
        places = 2 * sizes.active + AGENTS
        # Room for those that come and go while the active ones stay.
        limits = {"active_runs": sizes.active + 200, "queued_runs": 2 * sizes.waiting}
        settings = pool(space.home, "benchmarks.noop:held_step", AGENTS, places, limits=limits)
        self._platform = Platform(settings, [approval(), held()])
        self._waiting: list[RunId] = []

    async def warm_up(self) -> None:
        await self._platform.ready()
        self._waiting += await self._platform.submit("asks", [{}] * WARM_UP, key="warm-up")
        await self._rest(0)

    def memory_kib(self) -> float:
        """The coordinator's resident memory that is its own."""
        return float(self._platform.process().memory_full_info().uss) / 1024

    async def submit_one_by_one(self, key: str) -> list[float]:
        """Milliseconds of each submit, as its caller sees it."""
        times = []
        for number in range(self.sizes.samples):
            began = time.perf_counter()
            self._waiting += await self._platform.submit("asks", [{}], key=f"{key}-{number}")
            times.append((time.perf_counter() - began) * 1000)
        return times

    async def fill_waiting(self) -> None:
        more = max(0, self.sizes.waiting - self.sizes.samples)
        self._waiting += await self._platform.submit("asks", [{}] * more, key="waiting")
        await self._rest(0)

    async def fill_active(self) -> None:
        inputs = [{"until": str(self._release)}] * self.sizes.active
        await self._platform.submit("held", inputs, key="active")
        await self._until_begun(1)

    async def kill_and_recover(self) -> tuple[float, float]:
        """Seconds after a SIGKILL until the coordinator answers, and until every active run is at work again."""
        await self._rest(self.sizes.active)
        self._platform.process().send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        await self._platform.until(lambda health: True)
        answers_s = time.monotonic() - killed_at
        await self._until_begun(2)
        return answers_s, time.monotonic() - killed_at

    async def approve_all(self) -> float:
        """Approved runs a second, until the last has ended; then lets those at work end."""
        began = time.monotonic()
        free = asyncio.Semaphore(SUBMITS_AT_ONCE)

        async def approve(run: RunId) -> None:
            async with free:
                await self._platform.call(
                    "decide", DEFAULT_TENANT, run, None, "approve", None, "", "benchmark"
                )

        await asyncio.gather(*(approve(run) for run in self._waiting))
        await self._rest(self.sizes.active)
        rate = len(self._waiting) / (time.monotonic() - began)
        self._release.touch()
        await self._platform.until_idle()
        return rate

    async def endings(self) -> dict[str, int]:
        return await self._platform.endings()

    def close(self) -> None:
        self._platform.close()

    async def _rest(self, active: int) -> None:
        """Until no more than `active` runs are at work and none is queued, and a moment longer."""
        await self._platform.until(lambda health: health["active"] <= active and not health["queued"])
        await asyncio.sleep(SETTLE_S)

    async def _until_begun(self, times: int) -> None:
        """Until the step of every active run has begun so often."""
        while True:
            begun = Counter(line["run"] for line in oracle.read_lines(self._ledger))
            if sum(count >= times for count in begun.values()) >= self.sizes.active:
                return
            await asyncio.sleep(LOOK_S)
