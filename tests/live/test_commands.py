"""The commands that need a real platform: cancel, logs, docs, batch, status."""

import json
from pathlib import Path

from manta.client import Client
from tests.live.conftest import LivePlatform, eventually
from tests.live.test_report import manta


def test_cancel_and_logs(platform: LivePlatform, client: Client, tmp_path: Path):
    run = client.submit("talk", {"say": "long", "calls": 1, "tokens": 100_000})
    eventually(lambda: platform.notes("model_call", run.id), "the model call")
    cancelled = manta(platform, "cancel", run.id, cwd=tmp_path)
    assert cancelled.returncode == 0, cancelled.stderr
    eventually(lambda: client.get(run.id).status == "interrupted", "the run being cancelled")
    told = manta(platform, "logs", run.id, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert "talk" in told.stdout
    assert "cancelled" in told.stdout


def test_docs_are_added_listed_and_searched(platform: LivePlatform, tmp_path: Path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/fish.md").write_text("Eels swim to the Sargasso Sea to spawn, and die there.")
    added = manta(platform, "docs", "add", "fish", "notes", cwd=tmp_path)
    assert added.returncode == 0, added.stdout + added.stderr
    assert "fish" in manta(platform, "docs", "list", cwd=tmp_path).stdout
    found = manta(platform, "docs", "search", "fish", "where do eels spawn?", cwd=tmp_path)
    assert "Sargasso" in found.stdout, found.stderr


def test_batch_runs_and_resumes(platform: LivePlatform, tmp_path: Path):
    lines = [{"id": f"n{n}", "input": {"names": [str(n)]}} for n in range(4)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for _ in range(2):
        done = manta(
            platform, "batch", "tasks.jsonl", "--graph", "greet", "--out", "results.jsonl", cwd=tmp_path
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "4 of 4" in done.stdout
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert sorted(result["id"] for result in results) == [f"n{n}" for n in range(4)]


def test_doctor_finds_the_platform_well(platform: LivePlatform, tmp_path: Path):
    done = manta(platform, "doctor", "--json", cwd=tmp_path)
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    failed = {name: check for name, check in checks.items() if check["state"] == "fail"}
    assert not failed
    assert done.returncode == 0
