"""SIGKILL at every named point, then a restart: an oracle outside the store tells what was done twice."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from coordinator.store.journal import Journal
from manta.clock import SystemClock
from manta.faults import KILL_POINTS, read_ledger
from manta.ids import DEFAULT_TENANT, RunId
from tests.coordinator.run_until_killed import INPUT, OUTPUT

ROOT = Path(__file__).resolve().parents[2]
POINTS = [point for point in KILL_POINTS if not point.startswith("replica.")]
OCCURRENCES = (1, 2)


def run(folder: Path, kill_at: str = "") -> int:
    environment = {**os.environ, "MANTA_LEDGER": str(folder / "ledger.jsonl"), "MANTA_KILL_AT": kill_at}
    command = [sys.executable, "-m", "tests.coordinator.run_until_killed", str(folder)]
    return subprocess.run(command, cwd=ROOT, env=environment, timeout=120, check=False).returncode


@pytest.mark.parametrize("occurrence", OCCURRENCES)
@pytest.mark.parametrize("point", POINTS)
async def test_killed_anywhere_the_run_ends_once(tmp_path: Path, point: str, occurrence: int):
    status = run(tmp_path, f"{point}:{occurrence}")
    if status == 0 and occurrence > 1:
        pytest.skip(f"{point} is met only once in this run")
    assert status == -signal.SIGKILL
    assert run(tmp_path) == 0

    ledger = read_ledger(tmp_path / "ledger.jsonl")
    ended = [line for line in ledger if line["kind"] == "ended"]
    assert [(line["status"], line["output"]) for line in ended] == [("success", OUTPUT)]
    assert len({line["run"] for line in ledger if line["kind"] in ("acknowledged", "ended")}) == 1
    # At most the calls in flight at the kill were made again: two askers run side by side, the actor alone.
    asked = Counter(line["text"] for line in ledger if line["kind"] == "model_call")
    acted = Counter(line["number"] for line in ledger if line["kind"] == "effect")
    assert set(asked) == set(INPUT["topics"])
    assert set(acted) == {0, 1, 2}
    repeated = asked.total() - 2 + acted.total() - 3
    assert repeated <= (2 if asked.total() > 2 else 1)

    journal = await Journal.open(f"sqlite:///{tmp_path}/journal.db", SystemClock())
    try:
        run_id = RunId(ended[0]["run"])
        events = await journal.events(run_id)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert [event.type for event in events].count("run_done") == 1
        steps = await journal.steps(run_id)
        assert Counter(step.state for step in steps) == {"done": 3}
        calls = await journal.calls(run_id)
        assert {call.call.state for call in calls} == {"done"}
        assert (await journal.get_run(DEFAULT_TENANT, run_id)).status == "success"
    finally:
        await journal.close()


def test_after_a_committed_outcome_nothing_is_repeated(tmp_path: Path):
    """The sharpest point: the outcome is durable, and the agent has not heard of it."""
    assert run(tmp_path, "journal.outcome_committed:4") == -signal.SIGKILL
    assert run(tmp_path) == 0
    ledger = read_ledger(tmp_path / "ledger.jsonl")
    assert Counter(line["kind"] for line in ledger)["effect"] == 3
    assert Counter(line["kind"] for line in ledger)["model_call"] == 2
