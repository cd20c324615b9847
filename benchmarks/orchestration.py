"""Chains of no-op steps: the coordinator with everything durable, LangGraph with a checkpointer, bare Ray calls.

python -m benchmarks.orchestration --json FILE
python -m benchmarks.orchestration --kill     # the coordinator dies in the middle, then the oracle judges
"""

import argparse
import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import oracle, workspace
from benchmarks.harness import Row, Side, Target, compare, in_turn, show, write
from benchmarks.killed import judge, kill_midway
from benchmarks.local_ray import cpu_seconds, local_ray
from benchmarks.machine import describe
from benchmarks.peers_langgraph import chains_seconds
from benchmarks.peers_ray import bare_caller
from benchmarks.platform import Platform, chain, pool
from benchmarks.workspace import Workspace
from coordinator.ray_runtime import CALLS_AT_ONCE

AGENTS = 2
WARM_UP = 20
OURS = "manta"
LANGGRAPH = "langgraph-sqlite"
BARE = "bare-ray"
PACKAGES = ("ray", "sqlalchemy", "langgraph", "langgraph-checkpoint-sqlite", "aiosqlite")


def main() -> int:
    options = _options()
    with workspace.make("benchmarks.orchestration", options.folder) as space, local_ray():
        load = Load(options.runs, options.steps, options.in_flight)
        if options.kill:
            return asyncio.run(_kill(space, load))
        asyncio.run(_compare(space, load, options.rounds, options.json))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the result goes")
    parser.add_argument("--folder", type=Path, default=workspace.FOLDER, help="on a disk; for all databases")
    parser.add_argument("--runs", type=int, default=300, help="runs of one measurement")
    parser.add_argument("--steps", type=int, default=10, help="steps of a run")
    parser.add_argument("--in-flight", type=int, default=50, help="runs at once")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side")
    parser.add_argument("--kill", action="store_true", help="kill the coordinator in the middle and judge")
    return parser.parse_args()


@dataclass(frozen=True, slots=True)
class Load:
    """`runs` chains of `steps` steps each, `in_flight` of them at once."""

    runs: int
    steps: int
    in_flight: int


async def _compare(space: Workspace, load: Load, rounds: int, target: Path | None) -> None:
    machine = describe(space.folder, PACKAGES)
    ours = _Ours(space, load)
    await ours.warm_up()
    sides = {OURS: ours.measure, LANGGRAPH: _langgraph(space, load), BARE: await _bare(load)}
    figures = await in_turn(sides, rounds)
    ours.close()
    case = f"{load.steps}-step chains, {load.in_flight} at once"
    rows = compare(case, "runs/s", figures, OURS)
    targets = _targets(rows)
    show("Orchestration", rows, targets)
    print(ours.flush_line())
    details = {
        "runs": load.runs,
        "figures": figures,
        "flushes": ours.flushes,
        "steps": ours.steps,
        "cpu_us_per_step": ours.cpu_us(),
    }
    if target:
        write(target, machine, rows, targets, details)


def _targets(rows: list[Row]) -> list[Target]:
    wanted = {LANGGRAPH: 2.0, BARE: 0.7}
    return [
        Target(f"ours over {row.peer_name}", "ratio", row.ratio, "at_least", wanted[row.peer_name])
        for row in rows
    ]


class _Ours:
    """The coordinator actor and two agent actors; counts flushes, steps and processor time over all rounds."""

    def __init__(self, space: Workspace, load: Load) -> None:
        self._load = load
        limits = {"active_runs": load.in_flight}
        settings = pool(space.home, "benchmarks.noop:step", AGENTS, load.in_flight, limits=limits)
        self._platform = Platform(settings, [chain(load.steps)])
        self._round = 0
        self._cpu: dict[str, float] = {}
        self.flushes = 0
        self.steps = 0

    async def warm_up(self) -> None:
        await self._platform.ready()
        await self._platform.seconds("chain", WARM_UP, "warm-up")

    async def measure(self) -> float:
        """Runs a second of one round."""
        self._round += 1
        runs, cpu = self._load.runs, cpu_seconds()
        flushes = await self._flushes()
        seconds = await self._platform.seconds("chain", runs, f"round-{self._round}")
        self.flushes += await self._flushes() - flushes
        self.steps += runs * self._load.steps
        for title, used in cpu_seconds().items():
            self._cpu[title] = self._cpu.get(title, 0.0) + used - cpu.get(title, 0.0)
        return runs / seconds

    async def _flushes(self) -> int:
        return int((await self._platform.call("health"))["flushes"])

    def cpu_us(self) -> dict[str, int]:
        """Microseconds of processor time for each step, by what the processes are."""
        each = {title: round(used / self.steps * 1e6) for title, used in self._cpu.items()}
        return {title: us for title, us in sorted(each.items(), key=lambda item: -item[1]) if us >= 1}

    def flush_line(self) -> str:
        per_flush = self.steps / self.flushes if self.flushes else 0.0
        return (
            f"Ours: {self.steps} steps in {self.flushes} flushes to disk, {per_flush:.1f} steps each; "
            f"processor time of a step in µs: {self.cpu_us()}"
        )

    def close(self) -> None:
        self._platform.close()


def _langgraph(space: Workspace, load: Load) -> Side:
    async def measure() -> float:
        file = space.folder / f"langgraph-{time.monotonic_ns()}.db"
        return load.runs / await chains_seconds(file, load.runs, load.steps, load.in_flight)

    return measure


async def _bare(load: Load) -> Side:
    caller = bare_caller(AGENTS, CALLS_AT_ONCE)
    await caller.drive.remote(WARM_UP, load.steps, load.in_flight)

    async def measure() -> float:
        seconds: float = await caller.drive.remote(load.runs, load.steps, load.in_flight)
        return load.runs / seconds

    return measure


async def _kill(space: Workspace, load: Load) -> int:
    limits = {"active_runs": load.in_flight}
    settings = pool(space.home, "benchmarks.noop:noted_step", AGENTS, load.in_flight, limits=limits)
    platform = Platform(settings, [chain(load.steps)])
    await platform.ready()
    ids = await kill_midway(platform, space, load.runs, load.steps)
    platform.close()
    expected = oracle.Expected(load.steps, load.in_flight, kills=1)
    found = await judge(settings.journal_url, ids, space, expected)
    print(f"Verdict: {oracle.verdict(found)}")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
