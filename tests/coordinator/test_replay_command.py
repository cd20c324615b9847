"""`manta replay` as a process: what it prints, and its exit status."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.scripted import ScriptedModel, ScriptedStep
from manta.ids import RunId
from tests.coordinator.replay_support import Bench, an_agent

ROOT = Path(__file__).resolve().parents[2]
GRAPH = {"steps": [{"id": "ask", "agent": "asker", "input": {"topic": "tides"}}]}


@pytest.fixture
async def run(tmp_path: Path) -> RunId:
    bench = Bench(tmp_path, GRAPH, {"asker": an_agent("Asker")})
    return await bench.record({}, ScriptedModel([ScriptedStep(text="they come and go")]))


def replay(folder: Path, run: str, *more: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """`manta replay` with a settings file in which the agent has these options."""
    asker = {"use": "tests.coordinator.replay_agents:Asker", "options": options}
    config = folder / "manta.yaml"
    config.write_text(yaml.safe_dump({"home": str(folder), "agents": {"asker": asker}}))
    command = [sys.executable, "-m", "manta.cli.main", "--config", str(config), "replay", run, *more]
    # In the repository, so that the agents of the tests can be imported.
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_a_run_that_comes_out_as_recorded(tmp_path: Path, run: RunId):
    done = replay(tmp_path, run)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "1 step and 1 recorded call replayed, everything as recorded",
        "the output is the same",
    ]


def test_changed_code_fails_with_the_difference(tmp_path: Path, run: RunId):
    done = replay(tmp_path, run, max_tokens=60)
    assert done.returncode == 1
    assert "+max_tokens: 60" in done.stdout.splitlines()
    assert done.stderr.startswith("error: replay_mismatch: step ask, call 1: the model call ")
    assert len(done.stderr.splitlines()) == 1


def test_for_programs(tmp_path: Path, run: RunId):
    done = json.loads(replay(tmp_path, run, "--json").stdout)
    assert (done["steps"], done["calls"], done["output_equal"], done["mismatch"]) == (1, 1, True, None)
    told = json.loads(replay(tmp_path, run, "--json", max_tokens=60).stdout)["mismatch"]
    assert (told["step"], told["call"]) == ("ask", 1)
    assert "-max_tokens: 50" in told["difference"]


@pytest.mark.parametrize(
    ("run_id", "more", "code"),
    [
        ("00000000-0000-4000-8000-000000000000", [], "not_found"),
        (None, ["--graph", "current"], "unknown_graph"),
    ],
)
def test_what_cannot_be_replayed_is_one_line(
    tmp_path: Path, run: RunId, run_id: str | None, more: list[str], code: str
):
    done = replay(tmp_path, run_id or run, *more)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {code}: ")
    assert len(done.stderr.splitlines()) == 1
