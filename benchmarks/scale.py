"""Thousands of runs that wait for a person and a thousand at work on one coordinator, which then is killed.

python -m benchmarks.scale --json FILE
python -m benchmarks.scale --runs 200          # a small try
python -m benchmarks.scale --postgres          # two coordinators; how soon one takes over from the other
"""

import argparse
import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import workspace
from benchmarks.crowd import Crowd, Sizes
from benchmarks.harness import Row, Target, percentile, row, show, write
from benchmarks.local_ray import local_ray
from benchmarks.machine import describe
from benchmarks.takeover import measure_takeover

PACKAGES = ("ray", "sqlalchemy", "psycopg")
KIB_PER_RUN = 50.0
LATENCY_RATIO = 3.0
RECOVERY_S = 20.0


def main() -> int:
    options = _options()
    with workspace.make("benchmarks.scale", options.folder) as space, local_ray(num_cpus=4):
        return asyncio.run(_takeover(space, options) if options.postgres else _scale(space, options))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the result goes")
    parser.add_argument("--folder", type=Path, default=workspace.FOLDER, help="on a disk; for all databases")
    parser.add_argument("--runs", type=int, default=10_000, help="runs that wait; a tenth of it is at work")
    parser.add_argument(
        "--samples", type=int, default=500, help="submits that are timed, one after the other"
    )
    parser.add_argument("--postgres", action="store_true", help="measure a take-over instead")
    return parser.parse_args()


@dataclass(frozen=True, slots=True)
class Scale:
    """What was measured. Latencies in milliseconds, memory in KiB for each run, recovery in seconds."""

    sizes: Sizes
    empty_ms: list[float]
    loaded_ms: list[float]
    kib_per_waiting: float
    kib_per_active: float
    kib_per_run: float
    answers_s: float
    driven_s: float
    approved_per_s: float
    ended: dict[str, int]

    @property
    def complete(self) -> bool:
        return self.ended == {"success": self.sizes.all_runs}

    def rows(self) -> list[Row]:
        case = f"submit, {self.sizes.waiting} waiting and {self.sizes.active} active, {{}}"
        return [
            row(
                case.format(f"p{share * 100:.0f}"),
                "ms",
                percentile(self.loaded_ms, share),
                "empty",
                percentile(self.empty_ms, share),
                better="less",
            )
            for share in (0.5, 0.99)
        ]

    def targets(self) -> list[Target]:
        slower = percentile(self.loaded_ms, 0.99) / percentile(self.empty_ms, 0.99)
        return [
            Target(
                "coordinator's memory, each waiting run", "KiB", self.kib_per_waiting, "at_most", KIB_PER_RUN
            ),
            Target(
                "coordinator's memory, each active run", "KiB", self.kib_per_active, "at_most", KIB_PER_RUN
            ),
            Target("coordinator's memory, each run", "KiB", self.kib_per_run, "at_most", KIB_PER_RUN),
            Target("submit p99, loaded to empty", "ratio", slower, "at_most", LATENCY_RATIO),
            Target("answers after a kill", "s", self.answers_s, "at_most", RECOVERY_S),
            Target("drives every active run after a kill", "s", self.driven_s, "at_most", RECOVERY_S),
        ]


async def _scale(space: workspace.Workspace, options: argparse.Namespace) -> int:
    machine = describe(space.folder, PACKAGES)
    sizes = Sizes(options.runs, max(1, options.runs // 10), options.samples)
    crowd = Crowd(space, sizes)
    try:
        measured = await measure(crowd)
    finally:
        crowd.close()
    show("Scale", measured.rows(), measured.targets())
    print(f"Approved {measured.approved_per_s:.0f} runs/s; ended: {measured.ended}")
    details = {"approved_per_s": measured.approved_per_s, "ended": measured.ended, "sizes": sizes.to_json()}
    if options.json:
        write(options.json, machine, measured.rows(), measured.targets(), details)
    return 0 if measured.complete else 1


async def measure(crowd: Crowd) -> Scale:
    sizes = crowd.sizes
    await crowd.warm_up()
    before = crowd.memory_kib()
    empty = await crowd.submit_one_by_one("empty")
    await crowd.fill_waiting()
    resting = crowd.memory_kib()
    await crowd.fill_active()
    full = crowd.memory_kib()
    loaded = await crowd.submit_one_by_one("loaded")
    answers_s, driven_s = await crowd.kill_and_recover()
    approved_per_s = await crowd.approve_all()
    return Scale(
        sizes=sizes,
        empty_ms=empty,
        loaded_ms=loaded,
        kib_per_waiting=(resting - before) / sizes.waiting,
        kib_per_active=(full - resting) / sizes.active,
        kib_per_run=(full - before) / (sizes.waiting + sizes.active),
        answers_s=answers_s,
        driven_s=driven_s,
        approved_per_s=approved_per_s,
        ended=await crowd.endings(),
    )


async def _takeover(space: workspace.Workspace, options: argparse.Namespace) -> int:
    machine = describe(space.folder, PACKAGES)
    taken: dict[str, Any] = await measure_takeover(space, runs=max(1, options.runs // 10))
    print(
        f"A killed coordinator's {taken['runs']} runs were all driven by the other {taken['seconds']:.1f} s later, "
        f"with a lease of {taken['lease_s']:g} s; ended: {taken['ended']}"
    )
    if options.json:
        write(options.json, machine, [], [], taken)
    return 0 if taken["ended"] == {"success": taken["runs"]} else 1


if __name__ == "__main__":
    raise SystemExit(main())
