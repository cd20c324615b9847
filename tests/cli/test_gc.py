"""`manta gc` as a process, on a real journal and on none."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

from coordinator.store.journal import Journal
from manta.clock import ManualClock
from tests.store.library_support import finished

ROOT = Path(__file__).parents[2]


def manta(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "manta.cli.main", "--home", str(home), *arguments],
        capture_output=True,
        text=True,
        cwd=home,
        env=environment,
        check=False,
        timeout=120,
    )


async def an_old_run(home: Path) -> None:
    journal = await Journal.open(f"sqlite:///{home}/journal.db", ManualClock())
    await finished(journal)
    await journal.close()


def test_it_lets_go_of_what_is_old(tmp_path: Path):
    asyncio.run(an_old_run(tmp_path))
    assert json.loads(manta(tmp_path, "gc", "--json").stdout)["runs"] == 0
    assert manta(tmp_path, "gc", "--dry-run", "--runs-days", "30").stdout.startswith("would go: 1 runs")
    done = manta(tmp_path, "gc", "--runs-days", "30")
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        0,
        "gone: 1 runs, the wording of 0 calls, 0 files",
    )


def test_a_refusal_is_one_line_and_its_status(tmp_path: Path):
    ended = manta(tmp_path, "gc")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"error: not_found: there is no journal at {tmp_path}/journal.db")
    assert ended.stderr.count("\n") == 1
