"""Coordinators in processes of their own on one PostgreSQL: one is killed, one stands still and comes back."""

import asyncio
from collections import Counter
from pathlib import Path

from coordinator.store.records import RunRecord
from coordinator.submission import Submission
from manta.faults import read_ledger
from manta.ids import RunId
from tests.faults import world
from tests.faults.group import Group
from tests.faults.hook import Hook
from tests.faults.oracle import read_stories, violations
from tests.faults.process import until
from tests.faults.script import Visit, undelivered

ACME = world.TENANTS[0]


async def test_one_of_two_is_killed_and_the_other_ends_its_runs(tmp_path: Path, shared: str):
    ledger = tmp_path / "ledger.jsonl"
    group = Group(tmp_path, shared, ledger)
    one = group.start("one", "coordinator.lease_renewed:3")
    group.start("two")
    async with Hook() as hook:
        visits = [Visit(group, tenant, ledger, hook.url) for tenant in world.TENANTS]
        living = asyncio.gather(*(visit.everything(shared) for visit in visits))
        await one.dead.wait()
        assert not living.done(), "it was killed in the midst of all"
        group.bury("one")
        await living
        await visits[0].see_no_others(visits[1])
        while undelivered(shared):
            await asyncio.sleep(0.05)
    assert await group.end() == [0]
    acknowledged = [(visit.tenant, run) for visit in visits for run in visit.runs.values()]
    assert violations(read_stories(shared), acknowledged, read_ledger(ledger), group.killed) == []


async def test_a_zombie_writes_nothing_and_repeats_nothing(tmp_path: Path, shared: str):
    ledger, gate = tmp_path / "ledger.jsonl", tmp_path / "gate"
    group = Group(tmp_path, shared, ledger)
    zombie = group.start("zombie")
    asked = Submission("gated", {"gate": str(gate)}, ACME)
    runs: list[RunId] = [(await zombie.call("submit", asked)).id for _ in range(4)]
    await until(lambda: _committed_calls(shared) == 4, "all of them at the gate, with a call behind them")
    group.freeze("zombie")
    living = group.start("living")
    gate.touch()
    for run in runs:
        record: RunRecord = await living.call("wait", ACME, run, 30.0)
        assert (record.status, record.owner, record.epoch) == ("success", "living", 2)
    before = len(read_ledger(ledger))
    group.thaw("zombie")
    # It sees the open gate, goes on, and is refused at its next call.
    await until(lambda: _refused(ledger) == set(runs), "the refusal of all its late calls")
    health = await zombie.call("health")
    while health["active"]:
        health = await zombie.call("health")
    assert [line for line in read_ledger(ledger)[before:] if line["kind"] == "call"] == []
    made = Counter((line["run"], line["name"]) for line in read_ledger(ledger) if line["kind"] == "call")
    assert made == {(run, name): 1 for run in runs for name in ("wait", "pass", "act")}
    # Once it has renewed its lease it is a coordinator like any other.
    owner = ""
    while owner != "zombie":
        runs.append((await zombie.call("submit", asked)).id)
        record = await zombie.call("wait", ACME, runs[-1], 30.0)
        assert record.status == "success"
        owner = record.owner or ""
    assert await group.end() == [0, 0]
    acknowledged = [(ACME, run) for run in runs]
    assert violations(read_stories(shared), acknowledged, read_ledger(ledger), []) == []


def _committed_calls(url: str) -> int:
    return sum(call.state == "done" for story in read_stories(url) for call in story.calls)


def _refused(ledger: Path) -> set[str]:
    return {line["run"] for line in read_ledger(ledger) if line["kind"] == "refused"}
