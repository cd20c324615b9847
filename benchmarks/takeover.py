"""Two coordinators on one PostgreSQL: one dies for good, and the other takes its runs when the lease has passed."""

import asyncio
import time
from typing import Any

from agents.actor import COORDINATOR
from benchmarks import oracle
from benchmarks.crowd import AGENTS, LOOK_S, held
from benchmarks.platform import Platform, pool
from benchmarks.postgres import postgres_url
from benchmarks.workspace import Workspace

LIMIT_S = 120.0


async def measure_takeover(space: Workspace, runs: int) -> dict[str, Any]:
    """Seconds from the death until every run's step has begun again under the other coordinator."""
    with postgres_url() as url:
        more = {"store_url": url, "coordinator": {"replicas": 2}, "limits": {"active_runs": runs}}
        settings = pool(space.home, "benchmarks.noop:held_step", AGENTS, 2 * runs, **more)
        platform = Platform(settings, [held()], [COORDINATOR, f"{COORDINATOR}-1"])
        try:
            await platform.ready()
            release = space.folder / "release"
            await platform.submit("held", [{"until": str(release)}] * runs, key="held")
            await _until_begun(space, runs, 1)
            platform.remove(0)
            killed_at = time.monotonic()
            await _until_begun(space, runs, 2)
            seconds = time.monotonic() - killed_at
            release.touch()
            await platform.until(lambda health: not health["active"] and not health["queued"], coordinator=1)
            ended = await platform.endings(coordinator=1)
        finally:
            platform.close()
    return {"runs": runs, "seconds": seconds, "lease_s": settings.coordinator.lease_s, "ended": ended}


async def _until_begun(space: Workspace, runs: int, epoch: int) -> None:
    """Until every run has begun its step under this epoch or a later one."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        lines = oracle.read_lines(space.ledger)
        if len({line["run"] for line in lines if line["epoch"] >= epoch}) >= runs:
            return
        await asyncio.sleep(LOOK_S)
    raise TimeoutError(f"not every run was driven under epoch {epoch} within {LIMIT_S:.0f} s")
