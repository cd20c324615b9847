"""The coordinator dies in the middle of the benchmark; then the oracle judges whether the speed cost anything."""

import asyncio
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import oracle
from benchmarks.platform import Platform
from benchmarks.workspace import Workspace
from coordinator.store.journal import Journal
from manta.clock import SystemClock
from manta.errors import NotFound
from manta.ids import DEFAULT_TENANT, RunId

LOOK_S = 0.02


async def kill_midway(platform: Platform, space: Workspace, runs: int, steps: int) -> list[RunId]:
    """Kills once a third of all steps have run, while the last third of the runs is being submitted.

    Returns all runs that were acknowledged, when nothing is at work any more.
    """
    first = runs * 2 // 3
    ids = await platform.submit("chain", [{}] * first, key="first")
    while len(oracle.read_lines(space.ledger)) < runs * steps // 3:
        await asyncio.sleep(LOOK_S)
    victim = platform.process()
    rest = asyncio.ensure_future(platform.submit("chain", [{}] * (runs - first), key="rest"))
    await asyncio.sleep(LOOK_S)
    victim.send_signal(signal.SIGKILL)
    killed_at, done = time.monotonic(), len(oracle.read_lines(space.ledger))
    ids += await rest
    await platform.until_idle(ids[-1])
    seconds = time.monotonic() - killed_at
    print(
        f"Killed process {victim.pid} after {done} steps; all {len(ids)} runs had ended {seconds:.1f} s later"
    )
    return ids


async def judge(url: str, ids: Sequence[RunId], space: Workspace, expected: oracle.Expected) -> list[str]:
    """Violations, read from the journal when its coordinator is gone."""
    ledger = oracle.read_lines(space.ledger)
    repeated = len(ledger) - len({(line["run"], line["step"]) for line in ledger})
    print(f"Ledger: {len(ledger)} side effects, {repeated} of them again after the kill")
    return oracle.violations(ids, await _traces(url, ids), ledger, expected)


async def _traces(url: str, ids: Sequence[RunId]) -> Mapping[str, oracle.Trace]:
    journal = await Journal.open(url, SystemClock())
    traces: dict[str, oracle.Trace] = {}
    try:
        for run in ids:
            try:
                traces[run] = await _trace(journal, run)
            except NotFound:
                continue  # The oracle misses it.
    finally:
        await journal.close()
    return traces


async def _trace(journal: Journal, run: RunId) -> oracle.Trace:
    record = await journal.get_run(DEFAULT_TENANT, run)
    steps: list[tuple[str, str, Any]] = [(s.key, s.state, s.output) for s in await journal.steps(run)]
    events = [(event.seq, str(event.type), event.step) for event in await journal.events(run)]
    return oracle.Trace(run, record.status, record.output, steps, events)
