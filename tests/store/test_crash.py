"""What was acknowledged survives a killed process, a stopped server, a lost answer and a full disk."""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from coordinator.store.journal import Journal
from manta.clock import ManualClock, SystemClock
from manta.errors import StorageUnavailable
from manta.ids import RunId
from tests.store.lossy_proxy import LossyProxy
from tests.store.support import TENANT, Postgres, a_run, claimed, note, seqs

ROOT = Path(__file__).parents[2]

COMMITTER = """
import asyncio, os, sys
from coordinator.store.journal import Journal
from manta.clock import SystemClock
from tests.store.support import claimed, note

async def main(url, ledger):
    journal = await Journal.open(url, SystemClock())
    async def work():
        run = await claimed(journal)
        while True:
            [event] = await journal.commit(run.id, 1, [note(pad="x" * 500)])
            os.write(ledger, f"{run.id} {event.seq}\\n".encode())
            os.fsync(ledger)
    await asyncio.gather(*(work() for _ in range(4)))

asyncio.run(main(sys.argv[1], os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)))
"""


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = 60) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen in {deadline_s} s"
        time.sleep(0.01)


async def test_a_killed_process_loses_nothing_it_acknowledged(url: str, tmp_path: Path, clock: ManualClock):
    ledger = tmp_path / "ledger"
    child = subprocess.Popen([sys.executable, "-c", COMMITTER, url, str(ledger)], cwd=ROOT)
    try:
        enough = lambda: ledger.exists() and ledger.read_bytes().count(b"\n") > 100  # noqa: E731
        wait_until(enough, "a hundred commits")
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()

    acknowledged: dict[str, int] = {}
    for line in ledger.read_text().splitlines():
        run, seq = line.split()
        acknowledged[run] = max(acknowledged.get(run, 0), int(seq))
    journal = await Journal.open(url, clock)
    assert len(acknowledged) == 4
    for run, last in acknowledged.items():
        written = await seqs(journal, RunId(run))
        assert written == list(range(1, len(written) + 1))
        # One commit more may be in: written, but its acknowledgement never left the process.
        assert last <= len(written) <= last + 1
    await journal.close()
    if url.startswith("sqlite"):
        with sqlite3.connect(tmp_path / "journal.db") as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()


async def test_commits_outlast_a_restart_of_the_server(postgres: Postgres):
    journal = await Journal.open(postgres.database(), SystemClock(), retry_delays=(0.05,) * 400)
    runs = [await claimed(journal) for _ in range(3)]
    acknowledged = dict.fromkeys((run.id for run in runs), 0)
    stop = asyncio.Event()

    async def work(run: RunId) -> None:
        while not stop.is_set():
            [event] = await journal.commit(run, 1, [note()])
            assert event.seq == acknowledged[run] + 1
            acknowledged[run] = event.seq

    workers = [asyncio.create_task(work(run.id)) for run in runs]
    for _ in range(2):
        before = sum(acknowledged.values())
        await asyncio.to_thread(
            wait_until, lambda b=before: sum(acknowledged.values()) > b + 20, "twenty commits"
        )
        await asyncio.to_thread(postgres.stop)
        await asyncio.to_thread(postgres.start)
    after = sum(acknowledged.values())
    await asyncio.to_thread(
        wait_until, lambda: sum(acknowledged.values()) > after + 20, "commits after the restart"
    )
    stop.set()
    await asyncio.gather(*workers)

    for run, last in acknowledged.items():
        assert await seqs(journal, run) == list(range(1, last + 1))
    await journal.close()


async def test_a_server_that_stays_away_is_unavailable_until_it_is_back(postgres: Postgres):
    journal = await Journal.open(postgres.database(), SystemClock(), retry_delays=(0.01, 0.02))
    run = await claimed(journal)
    await asyncio.to_thread(postgres.stop)
    try:
        for refused in (journal.commit(run.id, 1, [note()]), journal.get_run(TENANT, run.id)):
            with pytest.raises(StorageUnavailable):
                await refused
    finally:
        await asyncio.to_thread(postgres.start)

    assert [event.seq for event in await journal.commit(run.id, 1, [note()])] == [1]
    assert await journal.get_run(TENANT, run.id)
    await journal.close()


async def test_a_commit_whose_answer_was_lost_is_not_written_twice(postgres: Postgres):
    proxy = LossyProxy(postgres.socket)
    options = postgres.database().rpartition("&")[2]
    url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?{options}"
    journal = await Journal.open(url, SystemClock())
    run = await claimed(journal)

    proxy.lose_next_commit()
    [event] = await journal.commit(run.id, 1, [note(n=1)])

    assert (proxy.lost, event.seq) == (1, 1)
    assert await seqs(journal, run.id) == [1]
    proxy.lose_next_commit()
    record, created = await journal.create_run(a_run(idempotency_key="k"))
    assert (proxy.lost, created, record.status) == (2, True, "pending")
    await journal.close()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM writers").fetchone() == (0,)
    proxy.close()


async def test_a_locked_file_is_unavailable_and_still_readable(tmp_path: Path, clock: ManualClock):
    journal = await Journal.open(f"sqlite:///{tmp_path}/journal.db", clock)
    run = await claimed(journal)
    with sqlite3.connect(tmp_path / "journal.db", isolation_level=None) as holder:
        holder.execute("BEGIN IMMEDIATE")
        refused = asyncio.create_task(journal.commit(run.id, 1, [note()]))
        assert await journal.get_run(TENANT, run.id) == run
        with pytest.raises(StorageUnavailable, match="locked"):
            await refused
        holder.execute("ROLLBACK")
    holder.close()

    await journal.commit(run.id, 1, [note()])
    assert await seqs(journal, run.id) == [1]
    await journal.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_a_full_disk_refuses_writes_and_keeps_reading(small_disk: Path, clock: ManualClock):
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 1_500_000)
    journal = await Journal.open(f"sqlite:///{small_disk}/journal.db", clock)
    run = await claimed(journal)

    async def fill() -> None:
        for _ in range(200):
            await journal.commit(run.id, 1, [note(pad="x" * 50_000)])

    with pytest.raises(StorageUnavailable, match="full"):
        await fill()
    written = len(await journal.events(run.id))
    assert 0 < written < 200
    assert await journal.get_run(TENANT, run.id)
    ballast.unlink()
    [event] = await journal.commit(run.id, 1, [note()])
    assert event.seq == written + 1
    assert await seqs(journal, run.id) == list(range(1, written + 2))
    await journal.close()
