"""A file of tasks as a Ray job, through Ray's own job SDK, on the live platform."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manta import jobs
from manta.platform_process import running
from tests.live.conftest import LivePlatform


def tasks(path: Path, lines: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run_batch(platform: LivePlatform, task_file: Path, out: Path) -> list[Any]:
    info = running(platform.home)
    assert info is not None
    job = jobs.submit_batch(task_file, "greet", out, concurrency=3, platform=info)
    return list(jobs.follow(job))


def test_a_batch_has_one_result_line_a_task_and_resumes(platform: LivePlatform, tmp_path: Path):
    out = tmp_path / "results.jsonl"
    some = [{"id": f"t{n}", "input": {"names": [str(n)]}} for n in range(6)]
    progress = run_batch(platform, tasks(tmp_path / "tasks.jsonl", [*some, {"id": "bad", "input": {}}]), out)
    assert (progress[-1].done, progress[-1].failed, progress[-1].total) == (7, 1, 7)
    by_id = {line["id"]: line for line in results(out)}
    assert by_id["t4"]["output"] == {"output": [{"greeting": "hello 4"}]}
    assert by_id["bad"]["status"] == "error"
    assert "names" in by_id["bad"]["error"]["message"]

    runs_before = {line["run_id"] for line in results(out) if line["status"] == "success"}
    more = [*some, {"id": "t6", "input": {"names": ["6"]}}]
    run_batch(platform, tasks(tmp_path / "tasks.jsonl", more), out)
    done = [line for line in results(out) if line["status"] == "success"]
    assert sorted(line["id"] for line in done) == [f"t{n}" for n in range(7)]
    assert runs_before <= {line["run_id"] for line in done}
