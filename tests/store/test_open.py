"""A journal opens with up-to-date tables, however many open it at once, or not at all."""

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

from coordinator.store.engine import normalise_url, open_storage
from coordinator.store.journal import Journal
from coordinator.store.schema import metadata
from manta.clock import ManualClock
from manta.errors import InvalidConfig, StorageUnavailable
from tests.store.support import TENANT, Postgres, claimed

ROOT = Path(__file__).parents[2]

OPEN_AND_WRITE = """
import asyncio, sys
from coordinator.store.journal import Journal
from manta.clock import SystemClock
from tests.store.support import a_run

async def main():
    sys.stdin.readline()
    journal = await Journal.open(sys.argv[1], SystemClock())
    await journal.create_run(a_run())
    await journal.close()

asyncio.run(main())
"""


def shape(url: str) -> dict[str, object]:
    """Tables, columns, keys and indexes as the database itself describes them, in no order."""
    engine = create_engine(normalise_url(url))
    found = inspect(engine)
    shape_: dict[str, object] = {}
    for table in sorted(set(found.get_table_names()) - {"alembic_version"}):
        shape_[table] = (
            sorted((c["name"], str(c["type"]), c["nullable"]) for c in found.get_columns(table)),
            found.get_pk_constraint(table),
            # The condition of a partial index is an object that is equal to itself only.
            sorted(
                str({**index, "dialect_options": _conditions(index)}) for index in found.get_indexes(table)
            ),
            sorted(found.get_unique_constraints(table), key=str),
            found.get_foreign_keys(table),
        )
    engine.dispose()
    return shape_


def _conditions(index: Mapping[str, Any]) -> list[str]:
    return sorted(f"{name} {condition}" for name, condition in index.get("dialect_options", {}).items())


@pytest.fixture
def url(empty_url: str) -> str:
    return empty_url


@pytest.fixture
def second_url(url: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if url.startswith("sqlite"):
        return f"sqlite:///{tmp_path}/second.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.database()


def test_the_migrations_lead_to_the_tables_the_code_uses(url: str, second_url: str):
    storage = open_storage(url)
    engine = create_engine(normalise_url(second_url))
    metadata.create_all(engine)
    with storage.read.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()
    storage.dispose()

    assert shape(url) == shape(second_url)
    assert set(shape(url)) == set(metadata.tables)


async def test_opening_again_changes_nothing(url: str, clock: ManualClock):
    first = await Journal.open(url, clock)
    run = await claimed(first)
    before = shape(url)
    second = await Journal.open(url, clock)

    assert shape(url) == before
    assert await second.get_run(TENANT, run.id) == run
    await first.close()
    await second.close()


async def test_processes_that_open_a_new_journal_at_once_all_succeed(url: str, clock: ManualClock):
    command = [sys.executable, "-c", OPEN_AND_WRITE, url]
    openers = [subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE) for _ in range(2)]
    for opener in openers:
        opener.stdin.write(b"go\n")
        opener.stdin.flush()
    codes = await asyncio.gather(*(asyncio.to_thread(opener.wait, 60) for opener in openers))
    for opener in openers:
        opener.stdin.close()

    assert codes == [0, 0]
    journal = await Journal.open(url, clock)
    assert len(await journal.list_runs(TENANT)) == 2
    await journal.close()


async def test_journals_opened_at_once_in_one_process_all_succeed(url: str, clock: ManualClock):
    journals = await asyncio.gather(*(Journal.open(url, clock) for _ in range(4)))

    runs = await asyncio.gather(*(claimed(journal) for journal in journals))
    assert len(await journals[0].list_runs(TENANT)) == len({run.id for run in runs}) == 4
    for journal in journals:
        await journal.close()


async def test_a_journal_of_a_newer_version_is_left_alone(url: str, clock: ManualClock):
    await (await Journal.open(url, clock)).close()
    engine = create_engine(normalise_url(url))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()

    with pytest.raises(StorageUnavailable, match="another version"):
        await Journal.open(url, clock)


@pytest.mark.parametrize(
    "url", ["", "journal.db", "sqlite://", "sqlite:///:memory:", "mysql://host/db", "postgresql"]
)
async def test_a_url_of_no_use_is_refused(url: str, clock: ManualClock):
    with pytest.raises(InvalidConfig):
        await Journal.open(url, clock)


async def test_a_database_that_cannot_be_reached_is_unavailable_and_keeps_its_secret(
    clock: ManualClock, tmp_path: Path
):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"certainly not a database" * 400)
    for url in (
        f"postgresql://me:secret@/x?host={tmp_path}",
        f"sqlite:///{in_the_way}/journal.db",
        f"sqlite:///{damaged}",
    ):
        with pytest.raises(StorageUnavailable) as refused:
            await Journal.open(url, clock, retry_delays=())
        assert refused.value.retryable
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2", "postgresql+psycopg"])
def test_every_postgresql_url_gets_the_driver_there_is(scheme: str):
    assert normalise_url(f"{scheme}://u@h/d").drivername == "postgresql+psycopg"


async def test_sqlite_is_set_up_to_flush_every_commit(clock: ManualClock, tmp_path: Path):
    storage = open_storage(f"sqlite:///{tmp_path}/new/folder/journal.db")
    with storage.write.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    storage.dispose()

    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}


async def test_postgresql_is_set_up_to_flush_every_commit(clock: ManualClock, postgres: Postgres):
    storage = open_storage(f"{postgres.database()}%20-csynchronous_commit%3Doff")
    with storage.write.connect() as connection:
        assert connection.execute(text("SHOW synchronous_commit")).scalar_one() == "on"
    storage.dispose()
