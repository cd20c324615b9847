"""Every test of the journal runs on SQLite and on a real PostgreSQL."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from coordinator.store.journal import Journal
from manta.clock import ManualClock
from tests.store.support import Postgres, blank_journal, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where no journal is yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/journal.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A journal with nothing in it."""
    if request.param == "sqlite":
        return blank_journal(tmp_path / "journal.db")
    server: Postgres = request.getfixturevalue("postgres")
    return server.blank_journal()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def journal(url: str, clock: ManualClock) -> AsyncIterator[Journal]:
    opened = await Journal.open(url, clock)
    yield opened
    await opened.close()
