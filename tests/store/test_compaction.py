"""Room that deleted rows have left goes back to the disk, step by step and beside others."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from coordinator.store.compaction import compact, journal_file
from coordinator.store.journal import Journal
from coordinator.store.retention import DAY_S
from manta.clock import ManualClock
from manta.config import RetentionSettings
from manta.errors import InvalidConfig, StorageUnavailable
from tests.store.library_support import finished
from tests.store.support import TENANT, Postgres, at_work, note

MONTH = RetentionSettings(runs_days=30)


async def emptied(journal: Journal, clock: ManualClock) -> None:
    """A journal whose many rows have all gone."""
    await asyncio.gather(*(finished(journal, input={"text": "x" * 20_000}) for _ in range(200)))
    await clock.advance(31 * DAY_S)
    assert (await journal.retention.sweep(clock.now(), MONTH)).runs == 200


def pragma(file: Path, name: str) -> Any:
    connection = sqlite3.connect(file)
    try:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]
    finally:
        connection.close()


async def test_a_file_gets_smaller_while_a_journal_has_it_open(clock: ManualClock, tmp_path: Path):
    url = f"sqlite:///{tmp_path}/journal.db"
    file = journal_file(url)
    assert file == tmp_path / "journal.db"
    journal = await Journal.open(url, clock)
    await emptied(journal, clock)

    freed = await asyncio.to_thread(compact, url, rewrite=False)
    assert freed is not None
    assert freed > 3_000_000
    assert file.stat().st_size < 1_000_000
    assert await asyncio.to_thread(compact, url, rewrite=False) == 0
    run = await at_work(journal)
    await journal.close()
    assert pragma(file, "integrity_check") == "ok"
    reopened = await Journal.open(url, clock)
    assert await reopened.get_run(TENANT, run.id) is not None
    await reopened.close()


async def test_work_goes_on_beside_it(clock: ManualClock, tmp_path: Path):
    url = f"sqlite:///{tmp_path}/journal.db"
    journal = await Journal.open(url, clock)
    run = await at_work(journal)
    await emptied(journal, clock)

    async def work() -> None:
        for n in range(100):
            await journal.commit(run.id, run.epoch, [note(n=n)])

    freed, _ = await asyncio.gather(asyncio.to_thread(compact, url, rewrite=False, pause_s=0.001), work())
    assert freed is not None
    assert freed > 0
    assert len(await journal.events(run.id)) == 100
    await journal.close()


async def test_a_file_of_before_is_rewritten_once_when_nobody_has_it(clock: ManualClock, tmp_path: Path):
    file = tmp_path / "journal.db"
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA auto_vacuum = NONE")
    connection.execute("VACUUM")
    connection.execute("CREATE TABLE before (x)")
    connection.close()
    url = f"sqlite:///{file}"
    journal = await Journal.open(url, clock)
    await emptied(journal, clock)
    assert pragma(file, "auto_vacuum") == 0

    assert await asyncio.to_thread(compact, url, rewrite=False) is None
    await journal.close()
    freed = await asyncio.to_thread(compact, url, rewrite=True)
    assert freed is not None
    assert freed > 3_000_000
    assert (pragma(file, "auto_vacuum"), pragma(file, "integrity_check")) == (2, "ok")
    # With nothing to give back nothing needs rewriting.
    assert await asyncio.to_thread(compact, url, rewrite=False) == 0


async def test_a_server_is_vacuumed(postgres: Postgres, clock: ManualClock):
    url = postgres.database()
    assert journal_file(url) is None
    journal = await Journal.open(url, clock)
    await emptied(journal, clock)
    freed = await asyncio.to_thread(compact, url, rewrite=False)
    assert freed is not None
    assert freed > 0
    run = await at_work(journal)
    assert (await journal.get_run(TENANT, run.id)).status == "running"
    await journal.close()


async def test_a_database_that_is_in_use_or_away_says_so(clock: ManualClock, tmp_path: Path):
    with pytest.raises(InvalidConfig):
        compact("mysql://x/y", rewrite=False)
    with pytest.raises(StorageUnavailable):
        compact(f"postgresql://me:secret@/x?host={tmp_path}", rewrite=False)
    (tmp_path / "damaged.db").write_bytes(b"certainly not a database" * 400)
    with pytest.raises(StorageUnavailable):
        compact(f"sqlite:///{tmp_path}/damaged.db", rewrite=False)
