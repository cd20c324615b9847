"""A run that kills whatever works on it ends as a dead letter, and the others end as if it were not there."""

import asyncio
from pathlib import Path

from coordinator.endings import DEAD_LETTER
from coordinator.retry import AGENT_LOST, MAX_DEATHS
from manta.config import CoordinatorSettings, LimitSettings
from manta.errors import Unavailable
from manta.faults import read_ledger
from manta.ids import RunId
from manta.messages import Task
from tests.faults import world
from tests.faults.colony import submit
from tests.faults.conftest import MakeColony
from tests.faults.oracle import read_stories, violations
from tests.faults.process import Options
from tests.faults.script import Visit
from tests.faults.survivor import Survivor

TAKEOVERS = 2


async def test_a_step_that_kills_its_agents(colony: MakeColony, tmp_path: Path):
    def work(task: Task) -> str:
        if task.input["deadly"]:
            raise Unavailable("gone", code=AGENT_LOST)
        return "done"

    them = colony(
        {"steps": [{"id": "s", "agent": "work", "input": {"deadly": "${input.deadly}"}}]},
        f"sqlite:///{tmp_path}/journal.db",
    )
    one = await them.add("one", {"work": work}, limits=LimitSettings(active_runs=1))
    poison = await submit(one, {"deadly": True})
    others = [await submit(one, {"deadly": False}) for _ in range(5)]
    ended = await them.ended(poison, "one")
    assert (ended.status, ended.reason) == ("error", DEAD_LETTER)
    assert [(await them.ended(run, "one")).status for run in others] == ["success"] * 5
    assert len([t for t in them.runtimes["one"].tasks if t.scope.run == poison]) == MAX_DEATHS


async def test_a_run_that_kills_its_coordinator(tmp_path: Path):
    url, ledger = f"sqlite:///{tmp_path}/journal.db", tmp_path / "ledger.jsonl"
    limits, settings = LimitSettings(takeovers=TAKEOVERS), CoordinatorSettings(lease_s=0.3)
    survivor = Survivor(Options(tmp_path, url, limits=limits, settings=settings), ledger)
    visit = Visit(survivor, world.TENANTS[0], ledger)
    before = asyncio.create_task(visit.mend())
    poison = await visit.submit("poison", "deadly", {})
    after = asyncio.create_task(visit.talk())
    record = await visit.end_of(poison)
    assert (record.status, record.reason) == ("error", DEAD_LETTER)
    assert "died" in (record.error or {})["message"]
    await asyncio.gather(before, after)
    # One more for each time that another was begun together with it, or before it.
    assert TAKEOVERS + 1 <= len(survivor.deaths) <= TAKEOVERS + 4
    assert await survivor.end() == 0
    in_flight = [call.request for death in survivor.deaths for call in death.in_flight]
    acknowledged = [(visit.tenant, run) for run in visit.runs.values()]
    assert violations(read_stories(url), acknowledged, read_ledger(ledger), in_flight) == []


async def test_what_ended_as_a_dead_letter_can_be_tried_again(tmp_path: Path):
    """After whatever was wrong has been mended."""
    url, ledger = f"sqlite:///{tmp_path}/journal.db", tmp_path / "ledger.jsonl"
    limits = LimitSettings(takeovers=1)
    survivor = Survivor(Options(tmp_path, url, limits=limits), ledger)
    visit = Visit(survivor, world.TENANTS[0], ledger)
    poison: RunId = await visit.submit("poison", "deadly", {})
    assert (await visit.end_of(poison)).reason == DEAD_LETTER
    deaths = len(survivor.deaths)
    (tmp_path / "mended").touch()
    await survivor.call("resume", visit.tenant, poison, None)
    assert (await visit.end_of(poison)).status == "success"
    assert len(survivor.deaths) == deaths
    await survivor.end()
