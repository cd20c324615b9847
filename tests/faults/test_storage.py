"""The journal's database goes away, or its disk is full: nothing acknowledged is lost, and all goes on afterwards."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from coordinator.store import engine
from coordinator.submission import Submission
from coordinator.vigil import Vigil
from manta.clock import SystemClock
from manta.config import ModelSettings
from manta.errors import StorageUnavailable
from manta.ids import RunId
from manta.messages import Task
from serve_app.backends.sleep import SleepBackend
from tests.faults.colony import Colony, T, forever, submit
from tests.faults.conftest import MakeColony
from tests.gateway.platform import Local, start
from tests.store.support import Postgres

CHAIN = {
    "steps": [
        {"id": "one", "agent": "quick", "input": {"n": "${input.n}"}},
        {"id": "two", "agent": "held", "input": {"n": "${steps.one}"}},
    ]
}


def quick(task: Task) -> int:
    return int(task.input["n"])


async def real_end(them: Colony, run: RunId) -> Any:
    return await them.members["one"].wait(T, run, 30.0)


async def test_runs_outlast_a_postgresql_that_is_stopped_and_restarted(
    colony: MakeColony, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
):
    # So that an outage is noticed in a moment.
    monkeypatch.setattr(engine, "POSTGRES_RETRY_DELAYS", (0.05, 0.1))
    hold = asyncio.Event()

    async def held(task: Task) -> int:
        await hold.wait()
        return int(task.input["n"])

    them = colony(CHAIN)
    one = await them.add("one", {"quick": quick, "held": held}, clock=SystemClock())
    runs = [await submit(one, {"n": n}) for n in range(6)]
    async with asyncio.timeout(20):
        while them.runtimes["one"].count("two") < 6:
            await asyncio.sleep(0.01)
    await asyncio.to_thread(postgres.stop)
    again = Submission("g", {"n": 7}, T, idempotency_key="in the outage")
    try:
        for refused in (one.submit(again), one.get(T, runs[0]), one.cancel(T, runs[0])):
            with pytest.raises(StorageUnavailable):
                await refused
        # Their steps end while nothing can be written.
        hold.set()
        await asyncio.sleep(0.2)
        assert one.health()["active"] == 6
    finally:
        await asyncio.to_thread(postgres.start)
    record = await one.submit(again)
    assert (await one.submit(again)).id == record.id
    for run, n in [*zip(runs, range(6), strict=True), (record.id, 7)]:
        ended = await real_end(them, run)
        assert (ended.status, ended.output, ended.takeovers) == ("success", n, 0)
        events = await one.journal.events(run)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert len(await one.search(T, limit=100)) == 7
    # What was committed before was not done again.
    assert them.runtimes["one"].count("one") == 7


async def test_a_journal_that_fails_often_is_not_taken_for_a_dying_coordinator(
    colony: MakeColony, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    them = colony(CHAIN, f"sqlite:///{tmp_path}/journal.db")
    one = await them.add("one", {"quick": quick, "held": quick})
    commit, fails = one.journal.commit, 8

    async def failing(run: RunId, epoch: int, changes: Any) -> Any:
        nonlocal fails
        if fails:
            fails -= 1
            raise StorageUnavailable("the disk is full")
        return await commit(run, epoch, changes)

    monkeypatch.setattr(one.journal, "commit", failing)
    ended = await them.ended(await submit(one, {"n": 1}), "one")
    assert (ended.status, ended.takeovers, fails) == ("success", 0, 0)
    assert ended.epoch == 9


async def test_a_full_disk_refuses_new_runs_and_all_accepted_ones_end_once_there_is_space(small_disk: Path):
    model = SleepBackend("sleeper", ModelSettings(backend="sleep", step_s=(0.001, 0)))
    local, stop = await start(small_disk, {"sleeper": model})
    ballast = small_disk / "ballast"
    try:
        held = [await _submitted(local, "hold", "x" * 1000) for _ in range(5)]
        _fill(ballast)
        accepted, refused = [], None
        while refused is None:
            answer = await local.http.post(
                "/runs", json={"agent_id": "echo", "input": {"pad": "x" * 100_000}}
            )
            if answer.status_code == 200:
                accepted.append(answer.json()["run_id"])
            else:
                refused = answer
        assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")
        assert int(refused.headers["retry-after"]) > 0
        assert (await local.json("GET", f"/runs/{held[0]}"))["status"] == "pending"
        assert len(await local.json("POST", "/runs/search", json={})) >= 5
        # Their steps end, and their results have nowhere to go.
        local.release.set()
        await asyncio.sleep(1.5)
        ballast.unlink()
        for run in [*held, *accepted]:
            ended = await local.json("GET", f"/runs/{run}/wait", timeout=30)
            assert ended["run"]["status"] == "success"
        await _submitted(local, "echo", "after")
    finally:
        await stop()


async def _submitted(local: Local, graph: str, pad: str) -> str:
    run = await local.json("POST", "/runs", json={"agent_id": graph, "input": {"pad": pad}})
    return str(run["run_id"])


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 512):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


async def test_a_start_that_breaks_off_drives_no_run_twice(
    colony: MakeColony, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The journal goes away while a coordinator takes up the runs of the one before it."""
    at_once, most = 0, 0

    async def held(task: Task) -> int:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            if breaks or task.scope.epoch < 4:
                await forever(task)
        finally:
            at_once -= 1
        return int(task.input["n"])

    url = f"sqlite:///{tmp_path}/journal.db"
    before = colony(CHAIN, url)
    old = await before.add("one", {"quick": quick, "held": forever})
    run = await submit(old, {"n": 1})
    await before.until(lambda: before.runtimes["one"].count("two"), "its second step")
    await before.die("one")
    look, breaks = Vigil.look_at_all, 2

    async def breaking(vigil: Vigil) -> None:
        nonlocal breaks
        await look(vigil)
        if breaks:
            breaks -= 1
            await asyncio.sleep(0.02)
            raise StorageUnavailable("gone again")

    monkeypatch.setattr(Vigil, "look_at_all", breaking)
    them = colony(CHAIN, url)
    one = await them.add("one", {"quick": quick, "held": held}, clock=SystemClock())
    ended = await one.wait(T, run, 30.0)
    assert (ended.status, ended.output, most) == ("success", 1, 1)
