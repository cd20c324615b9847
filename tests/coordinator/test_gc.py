"""The command that lets go of old things: what it tells, what it leaves, what it refuses."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agents.context import LocalArtifacts
from coordinator import gc
from coordinator.gc import collect, told
from coordinator.store.journal import Journal
from coordinator.store.library_records import Swept
from coordinator.store.retention import DAY_S
from manta.clock import ManualClock, SystemClock
from manta.config import Settings, load_settings
from manta.errors import NotFound
from manta.platform_process import PlatformInfo
from tests.store.library_support import finished
from tests.store.support import TENANT, at_work

ROOT = Path(__file__).parents[2]


def settings_of(home: Path, **retention: float) -> Settings:
    return load_settings(None, {}, {"home": str(home), "retention": retention})


async def stored(home: Path, content: str, moment: float) -> str:
    source = home / "source"
    source.write_text(content)
    kept = LocalArtifacts(home / "artifacts")
    ref = await kept.put(source, "f", "text/plain")
    os.utime(kept.place(ref.sha256), (moment, moment))
    return ref.sha256


def files(home: Path) -> set[str]:
    return {path.name for path in (home / "artifacts").rglob("*") if path.is_file()}


async def test_old_runs_go_with_the_files_that_only_they_named(tmp_path: Path):
    clock = ManualClock()
    settings = settings_of(tmp_path, runs_days=30)
    journal = await Journal.open(settings.journal_url, clock)
    old, shared, unnamed = [await stored(tmp_path, text, clock.now()) for text in ("old", "shared", "none")]
    await finished(journal, input={"data": [{"sha256": old}, {"sha256": shared}]})
    await clock.advance(31 * DAY_S)
    run = await at_work(journal, input={"sha256": shared})
    upload = await stored(tmp_path, "upload", clock.now())

    would = await collect(settings, clock, dry_run=True)
    assert (would.runs, would.files, would.file_bytes) == (1, 1, 4)
    assert files(tmp_path) == {old, shared, unnamed, upload}

    swept = await collect(settings, clock)
    assert (swept.runs, swept.files, swept.file_bytes, swept.notes) == (1, 2, 7, ())
    assert files(tmp_path) == {shared, upload}
    assert [record.id for record in await journal.list_runs(TENANT)] == [run.id]
    again = await collect(settings, clock)
    assert (again.runs, again.files) == (0, 0)
    await journal.close()


async def test_a_journal_that_is_not_there_is_not_made(tmp_path: Path):
    # An empty one would name no file, and every file would go.
    kept = await stored(tmp_path, "x", 0)
    with pytest.raises(NotFound, match="no journal"):
        await collect(settings_of(tmp_path), SystemClock())
    assert files(tmp_path) == {kept}
    assert not (tmp_path / "journal.db").exists()


async def test_the_files_of_another_journal_stay(tmp_path: Path):
    clock = ManualClock()
    settings = settings_of(tmp_path)
    await (await Journal.open(settings.journal_url, clock)).close()
    kept = await stored(tmp_path, "x", 0)
    assert (await collect(settings, clock)).files == 0
    assert files(tmp_path) == {kept}


async def test_a_file_is_not_rewritten_under_a_running_platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[bool] = []

    def compact(url: str, *, rewrite: bool, pause_s: float) -> None:
        asked.append(rewrite)

    clock = ManualClock()
    settings = settings_of(tmp_path)
    await (await Journal.open(settings.journal_url, clock)).close()
    monkeypatch.setattr(gc, "compact", compact)
    assert (await collect(settings, clock)).notes
    monkeypatch.setattr(gc, "running", lambda home: PlatformInfo(1, 1.0, ""))
    swept = await collect(settings, clock)
    assert asked == [True, False]
    assert "manta down" in told(swept, dry_run=False)[-1]


def test_the_result_in_words():
    swept = Swept(runs=3, calls=14, processes=1, files=2, file_bytes=3 << 19, freed=5 << 20)
    assert told(swept, dry_run=False) == [
        "gone: 3 runs, the wording of 14 calls, 2 files (1.5 MiB)",
        "the journal gave back 5.0 MiB",
    ]
    assert told(Swept(), dry_run=True) == ["would go: 0 runs, the wording of 0 calls, 0 files"]


def command(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MANTA_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-m", "coordinator", *arguments],
        capture_output=True,
        text=True,
        cwd=home,
        env=environment,
        check=False,
        timeout=120,
    )


def test_as_a_process_it_tells_what_went(tmp_path: Path):
    async def prepare() -> str:
        journal = await Journal.open(settings_of(tmp_path).journal_url, ManualClock())
        run = await finished(journal)
        await journal.close()
        return run.id

    run = asyncio.run(prepare())
    (tmp_path / "manta.yaml").write_text("retention: {runs_days: 100000}\n")
    assert command("gc", home=tmp_path).stdout.startswith("gone: 0 runs")
    dry = command("gc", "--runs-days", "1", "--dry-run", home=tmp_path)
    assert dry.stdout == "would go: 1 runs, the wording of 0 calls, 0 files\n"
    done = command("gc", "--runs-days", "1", "--calls-days", "0.5", "--json", home=tmp_path)
    assert json.loads(done.stdout) | {"freed": 0} == {
        "runs": 1, "calls": 0, "processes": 0, "files": 0, "file_bytes": 0, "freed": 0, "notes": []
    }  # fmt: skip
    assert run.encode() not in (tmp_path / "journal.db").read_bytes()


@pytest.mark.parametrize(
    "arguments", [["--runs-days", "0"], ["--runs-days", "-1"], ["--config", "no.yaml"], []]
)
def test_as_a_process_a_refusal_is_one_line(tmp_path: Path, arguments: list[str]):
    ended = command("gc", *arguments, home=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert ended.stderr.startswith("error: ")
