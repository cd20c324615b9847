"""SIGKILL at every named point, also while recovering: an oracle tells what was lost or done twice."""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from coordinator.store.engine import open_storage
from manta.config import CoordinatorSettings
from manta.faults import KILL_POINTS, read_ledger
from tests.faults import world
from tests.faults.hook import Hook
from tests.faults.oracle import read_stories, violations
from tests.faults.process import Options
from tests.faults.script import Visit, undelivered
from tests.faults.survivor import Death, Survivor

# A coordinator alone on its journal renews no lease; see `test_processes` for that point.
ELSEWHERE = ("coordinator.lease_renewed", "replica.first_token")
POINTS = [point for point in KILL_POINTS if point not in ELSEWHERE]
# It looks after its runs often, so that a short life meets all of them.
BRISK = CoordinatorSettings(lease_s=0.3)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal with its tables and nothing in them."""
    path = tmp_path_factory.mktemp("journal") / "journal.db"
    open_storage(f"sqlite:///{path}").dispose()
    return path


async def live(folder: Path, empty: Path, kills: Sequence[str]) -> list[Death]:
    """The users of two tenants and a coordinator that dies at `kills`; nothing may be lost of what they wanted."""
    folder.mkdir()
    shutil.copy(empty, folder / "journal.db")
    url, ledger = f"sqlite:///{folder}/journal.db", folder / "ledger.jsonl"
    async with Hook() as hook:
        options = Options(folder, url, settings=BRISK, webhook_lease_s=0.3)
        survivor = Survivor(options, ledger, kills)
        visits = [Visit(survivor, tenant, ledger, hook.url) for tenant in world.TENANTS]
        await asyncio.gather(*(visit.everything(url) for visit in visits))
        await visits[0].see_no_others(visits[1])
        while undelivered(url):
            await survivor.call("health")
            await asyncio.sleep(0.05)
        assert await survivor.end() == 0

    acknowledged = [(visit.tenant, run) for visit in visits for run in visit.runs.values()]
    in_flight = [call.request for death in survivor.deaths for call in death.in_flight]
    assert violations(read_stories(url), acknowledged, read_ledger(ledger), in_flight) == []
    hooked = {run for visit in visits for name, run in visit.runs.items() if name != "fork"}
    assert hooked == set(hook.told)
    return survivor.deaths


@pytest.mark.parametrize("point", POINTS)
async def test_killed_anywhere_every_run_ends_once(tmp_path: Path, empty: Path, point: str):
    first, second = f"{point}:1", f"{point}:2"
    lives = await asyncio.gather(
        live(tmp_path / "one", empty, [first, second]), live(tmp_path / "two", empty, [second, first])
    )
    # Whether it is met again while recovering depends on what was left to be done.
    assert [deaths[0].at for deaths in lives] == [first, second]
