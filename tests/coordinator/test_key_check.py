"""A gateway that others reach is not started without keys; the journal is only read for it."""

import sqlite3
from pathlib import Path

import pytest

from coordinator.key_check import check_keys
from coordinator.store.journal import Journal
from manta.clock import ManualClock
from manta.config import Settings, load_settings
from manta.errors import InvalidConfig, StorageUnavailable
from manta.ids import Tenant
from serve_app.composition import Composition


def settings(home: Path, host: str) -> Settings:
    return load_settings(None, {}, {"home": str(home), "server.host": host})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8"])
def test_on_loopback_none_is_needed(tmp_path: Path, host: str):
    check_keys(settings(tmp_path, host))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "manta.internal", "127.evil.example", ""])
async def test_elsewhere_it_is_refused_until_there_is_a_key(tmp_path: Path, host: str):
    with pytest.raises(InvalidConfig) as refused:
        check_keys(settings(tmp_path, host))
    assert (refused.value.code, "manta keys create" in refused.value.fix) == ("keys_needed", True)
    assert list(tmp_path.iterdir()) == []

    journal = await Journal.open(f"sqlite:///{tmp_path}/journal.db", ManualClock())
    with pytest.raises(InvalidConfig):
        check_keys(settings(tmp_path, host))
    made = await journal.keys.create(Tenant("acme"), "ann")
    check_keys(settings(tmp_path, host))
    await journal.keys.revoke(made.record.id)
    with pytest.raises(InvalidConfig):
        check_keys(settings(tmp_path, host))
    await journal.close()


def test_a_journal_of_an_older_version_has_none(tmp_path: Path):
    dump = Path(__file__).parents[1] / "store/fixtures/r0001.sqlite.sql"
    with sqlite3.connect(tmp_path / "journal.db") as file:
        file.executescript(dump.read_text())
    file.close()
    with pytest.raises(InvalidConfig):
        check_keys(settings(tmp_path, "0.0.0.0"))


def test_a_file_that_is_no_journal_is_said_to_be_one_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "journal.db").write_bytes(b"certainly not a database" * 400)
    with pytest.raises(StorageUnavailable):
        check_keys(settings(tmp_path, "0.0.0.0"))


def test_it_is_said_before_anything_starts(tmp_path: Path):
    with pytest.raises(InvalidConfig, match="there is no API key"):
        Composition(settings(tmp_path, "0.0.0.0")).check()
