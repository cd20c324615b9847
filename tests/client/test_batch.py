"""Batches: lines to tasks, results that survive a crash, and no finished task run twice."""

import asyncio
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, PlainTextResponse

from manta import jobs
from manta.async_client import AsyncClient
from manta.batch import (
    PROGRESS,
    BatchProgress,
    Results,
    idempotency_key,
    main,
    only_writer,
    parse_progress,
    read_tasks,
    run_batch,
)
from manta.errors import Conflict, InvalidInput, PlatformError
from manta.platform_process import PlatformInfo
from tests.client.platform_double import PlatformDouble


def write_tasks(folder: Path, *lines: Any) -> Path:
    path = folder / "tasks.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def run(platform: PlatformDouble, tasks: Path, graph: str = "echo", concurrency: int = 4) -> int:
    out = str(tasks.with_name("results.jsonl"))
    return main(
        [str(tasks), "--graph", graph, "--out", out, "--url", platform.url, "--concurrency", str(concurrency)]
    )


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_every_task_has_one_line(
    platform: PlatformDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tasks = write_tasks(
        tmp_path, {"id": "b", "input": {"n": 1}}, {"question": "why?"}, "", {"id": 7, "input": [1]}
    )
    assert run(platform, tasks) == 0
    found = results(tmp_path)
    assert [(r["id"], r["status"]) for r in found][::2] == [("b", "success"), ("7", "success")]
    assert [r["output"] for r in found] == [{"n": 1}, {"question": "why?"}, {"output": [1]}]
    assert {r["run_id"] for r in found} == set(platform.runs)
    progress = [parse_progress(line) for line in capsys.readouterr().out.splitlines()]
    assert progress == [BatchProgress(3, n) for n in range(4)]


def test_a_finished_batch_does_nothing_more(platform: PlatformDouble, tmp_path: Path):
    tasks = write_tasks(tmp_path, {"input": {"n": 1}}, {"input": {"n": 2}})
    run(platform, tasks)
    first = results(tmp_path)
    sent = len(platform.requests)
    assert run(platform, tasks) == 0
    assert results(tmp_path) == first
    assert len(platform.requests) == sent


def test_new_lines_are_run_and_old_ones_are_not(platform: PlatformDouble, tmp_path: Path):
    run(platform, write_tasks(tmp_path, {"input": {"n": 1}}, {"input": {"n": 2}}))
    run(platform, write_tasks(tmp_path, {"input": {"n": 0}}, {"input": {"n": 1}}, {"input": {"n": 2}}))
    assert len(platform.runs) == 3
    assert [r["output"]["n"] for r in results(tmp_path)] == [0, 1, 2]


def test_a_failed_task_is_tried_again_as_another_run(platform: PlatformDouble, tmp_path: Path):
    tasks = write_tasks(tmp_path, {"id": "x", "input": {"fail": "step_failed"}}, {"id": "y", "input": {}})
    assert run(platform, tasks) == 1
    assert [(r["id"], r["status"]) for r in results(tmp_path)] == [("x", "error"), ("y", "success")]
    error = results(tmp_path)[0]["error"]
    assert (error["code"], error["message"], error["fix"]) == ("step_failed", "it broke", "mend it")
    for tries in (2, 3, 4):
        assert run(platform, tasks) == 1
        # Each time it is one more run of the task that fails, not the last failure found again.
        assert len(platform.runs) == 1 + tries
        assert len(results(tmp_path)) == 2
        assert results(tmp_path)[0]["tries"] == tries


def test_a_run_lost_from_sight_is_found_again_not_made_anew(platform: PlatformDouble, tmp_path: Path):
    tasks = read_tasks('{"id": "x", "input": {}}')
    out = tmp_path / "results.jsonl"

    async def batch(graph: str) -> None:
        async with AsyncClient(platform.url, patience_s=0.2) as client:
            await run_batch(client, graph, tasks, Results(out), 1, lambda progress: None)

    away = {"code": "coordinator_unavailable", "message": "away", "metadata": {}}
    platform.wait_with = [JSONResponse(away, 503) for _ in range(20)]
    asyncio.run(batch("echo"))
    (line,) = results(tmp_path)
    assert (line["status"], line["tries"]) == ("error", 0)
    platform.wait_with = []
    asyncio.run(batch("echo"))
    assert [r["status"] for r in results(tmp_path)] == ["success"]
    assert list(platform.runs) == [line["run_id"]]


def test_results_of_before_there_were_tries_are_counted(tmp_path: Path):
    file = tmp_path / "results.jsonl"
    old = {"id": "x", "status": "error", "run_id": "r", "error": {}}
    lines = [old, old, {**old, "run_id": None}, {**old, "id": "y", "tries": 5}, {**old, "id": "y"}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert Results(file).tries == {"x": 2, "y": 6}


def test_a_task_that_never_became_a_run_keeps_its_count(platform: PlatformDouble, tmp_path: Path):
    tasks = write_tasks(tmp_path, {"id": "x", "input": {"fail": "step_failed"}})
    run(platform, tasks)
    platform.answer_with = [JSONResponse({"code": "invalid_input", "message": "no"}, 422)]
    run(platform, tasks)
    assert (results(tmp_path)[0]["run_id"], results(tmp_path)[0]["tries"]) == (None, 1)
    run(platform, tasks)
    assert results(tmp_path)[0]["tries"] == 2
    assert len(platform.runs) == 2


def test_a_crash_before_the_result_was_written_finds_the_same_run(platform: PlatformDouble, tmp_path: Path):
    tasks = write_tasks(tmp_path, {"id": "x", "input": {}}, {"id": "y", "input": {}})
    run(platform, tasks)
    file = tmp_path / "results.jsonl"
    whole = file.read_text()
    # Half of the second line is what a crash may leave.
    file.write_text(whole[: len(whole.splitlines()[0]) + 20])
    assert run(platform, tasks) == 0
    assert file.read_text() == whole
    assert len(platform.runs) == 2


def test_lines_that_are_no_tasks_have_results_too(platform: PlatformDouble, tmp_path: Path):
    bad = [
        "{",
        "[]",
        {},
        {"question": " "},
        {"id": "q", "question": "x", "input": 1},
        {"input": 1, "inptu": 2},
    ]
    tasks = write_tasks(tmp_path, *bad, {"id": "good", "input": {}})
    assert run(platform, tasks) == 1
    found = results(tmp_path)
    assert [r["status"] for r in found] == ["error"] * 6 + ["success"]
    assert found[0]["id"] == "line-1"
    assert all(
        re.match(r"line \d: ", r["error"]["message"]) or "not JSON" in r["error"]["message"]
        for r in found[:6]
    )
    assert len(platform.runs) == 1


def test_equal_lines_are_two_tasks():
    one, two = read_tasks('{"question": "x"}\n{"question": "x"}\n')
    assert two.id == f"{one.id}-2"
    assert idempotency_key("g", one, 0) != idempotency_key("g", two, 0)


@pytest.mark.parametrize("text", ["", "\n \n", '{"id": 1, "input": 1}\n{"id": "1", "input": 2}'])
def test_files_that_cannot_be_a_batch(text: str):
    with pytest.raises(InvalidInput):
        read_tasks(text)


def test_the_key_depends_on_graph_line_and_tries():
    (task,) = read_tasks('{"id": "x", "input": 1}')
    (other,) = read_tasks('{"id": "x", "input": 2}')
    keys = {idempotency_key(*a) for a in (("g", task, 0), ("h", task, 0), ("g", other, 0), ("g", task, 1))}
    assert len(keys) == 4
    assert idempotency_key("g", task, 0) in keys


def test_no_more_runs_at_once_than_asked_for(platform: PlatformDouble, tmp_path: Path):
    tasks = write_tasks(tmp_path, *({"input": {"n": n}} for n in range(12)))
    platform.gather = 3
    assert run(platform, tasks, concurrency=3) == 0
    assert platform.most_in_flight == 3


def test_a_platform_that_is_away_for_a_while_is_waited_for(platform: PlatformDouble, tmp_path: Path):
    platform.answer_with = [PlainTextResponse("no route", 404), PlainTextResponse("bad gateway", 502)]
    assert run(platform, write_tasks(tmp_path, {"input": {}})) == 0


def test_an_unknown_graph_fails_each_task(platform: PlatformDouble, tmp_path: Path):
    assert run(platform, write_tasks(tmp_path, {"input": {}}), graph="nope") == 1
    (line,) = results(tmp_path)
    assert (line["run_id"], line["error"]["code"]) == (None, "unknown_graph")


def test_two_batches_do_not_write_one_file(
    platform: PlatformDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "results.jsonl"
    with only_writer(out):
        with pytest.raises(Conflict), only_writer(out):
            pass
        assert run(platform, write_tasks(tmp_path, {"input": {}})) == 1
    assert "another batch writes" in capsys.readouterr().err
    assert platform.requests == []


def test_results_of_other_tasks_are_kept(tmp_path: Path):
    other = {"id": "other", "status": "success", "run_id": "r", "output": {}}
    file = tmp_path / "results.jsonl"
    file.write_text(json.dumps(other) + "\n")
    found = Results(file)
    assert found.succeeded == {"other"}
    found.append({"id": "mine", "status": "success", "run_id": "s", "output": {}})
    found.tidy(["mine"])
    assert [r["id"] for r in results(tmp_path)] == ["mine", "other"]


async def test_a_batch_from_python(platform: PlatformDouble, tmp_path: Path):
    tasks = read_tasks('{"question": "x"}')
    seen: list[BatchProgress] = []
    async with AsyncClient(platform.url) as client:
        end = await run_batch(client, "echo", tasks, Results(tmp_path / "r.jsonl"), 1, seen.append)
    assert end == BatchProgress(1, 1, 0)
    assert seen == [BatchProgress(1, 0, 0), end]


def test_the_jobs_command_line_runs_on_this_machine(platform: PlatformDouble, tmp_path: Path):
    folder = tmp_path / "with space"
    folder.mkdir()
    tasks = write_tasks(folder, {"input": {}})
    info = PlatformInfo(1, 1.0, platform.url, dashboard="http://127.0.0.1:8265")
    line = jobs._entrypoint(info, tasks, "echo", folder / "results.jsonl", 2)
    ended = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1].startswith(PROGRESS)
    assert results(folder)[0]["status"] == "success"


def test_the_jobs_command_line_elsewhere_is_the_heads_own_python(tmp_path: Path):
    info = PlatformInfo(1, 1.0, "http://10.0.0.1:8000", dashboard="http://10.0.0.1:8265")
    words = shlex.split(jobs._entrypoint(info, tmp_path / "t", "echo", tmp_path / "r", 2))
    assert words[:3] == ["python", "-m", "manta.batch"]
    assert sys.executable not in words


class LogOfAJob:
    """The part of Ray's client that `follow` reads a log with."""

    def __init__(self, *chunks: str) -> None:
        self._chunks = chunks

    async def tail_job_logs(self, job_id: str) -> Any:
        for chunk in self._chunks:
            await asyncio.sleep(0)
            yield chunk


def test_lines_of_a_log_are_whole_however_they_come():
    assert list(jobs._log_lines(LogOfAJob("a\nb", "c\n", "d"), "job")) == ["a", "bc", "d"]


def test_a_token_becomes_a_header(tmp_path: Path):
    (tmp_path / "token").write_text("t0ken\n")
    assert jobs._headers(str(tmp_path / "token")) == {"Authorization": "Bearer t0ken"}
    assert jobs._headers("") == {}
    (tmp_path / "empty").write_text("\n")
    assert jobs._headers(str(tmp_path / "empty")) == {}
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(PlatformError, match="not a token"):
        jobs._headers(str(tmp_path / "binary"))
    with pytest.raises(PlatformError, match="cannot read Ray's token"):
        jobs._headers(str(tmp_path / "none"))


def test_a_platform_without_a_dashboard_takes_no_jobs(tmp_path: Path):
    with pytest.raises(PlatformError, match="dashboard"):
        jobs.submit_batch(tmp_path / "t", "echo", tmp_path / "r", platform=PlatformInfo(1, 1.0, "http://x"))
