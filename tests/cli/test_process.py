"""The command line as a process: what it imports, how it ends, what Ctrl-C does."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.platform_double import PlatformDouble

MANTA = [sys.executable, "-m", "manta.cli.main"]
ROOT = Path(__file__).parents[2]
HEAVY = ("ray", "torch", "langchain", "langchain_core", "sqlalchemy", "lancedb", "numpy", "fastapi")


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "MANTA_HOME": str(home)}


@pytest.mark.parametrize("module", ["manta", "manta.cli.main", "manta.jobs", "manta.batch"])
def test_the_ground_floor_is_light(module: str):
    program = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert found.stdout == "[]\n"


def test_a_platform_that_is_down_is_one_line(tmp_path: Path):
    command = [*MANTA, "--url", "http://127.0.0.1:9", "runs"]
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment(tmp_path), check=False
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: platform_unreachable: no answer at http://127.0.0.1:9: ")
    assert ended.stderr.endswith("(manta up)\n")


def test_completion_is_on(tmp_path: Path):
    ended = subprocess.run(
        # Typer asks for the shell that it runs under.
        ["bash", "-c", f"{shlex.join(MANTA)} --show-completion; exit $?"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(tmp_path),
        check=False,
    )
    assert ended.returncode == 0


def begin_held_run(platform: PlatformDouble, folder: Path) -> tuple[subprocess.Popen[str], str]:
    command = [*MANTA, "--url", platform.url, "run", "--graph", "hold", "--input", '{"a": 1}']
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment(folder)
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "started: ● work" in line:
            break
    (run_id,) = platform.runs
    return process, run_id


def test_ctrl_c_tells_how_to_come_back_and_goes_on(platform: PlatformDouble, tmp_path: Path):
    process, run_id = begin_held_run(platform, tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    words = ""
    while "cancel:" not in words:
        words += process.stdout.readline()
    assert "The run goes on" in words
    assert f"manta logs {run_id} --follow" in words
    assert f"manta cancel {run_id}" in words
    platform.release(run_id)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "wrote out/output.json" in rest


def test_a_second_ctrl_c_leaves_and_the_run_goes_on(platform: PlatformDouble, tmp_path: Path):
    process, run_id = begin_held_run(platform, tmp_path)
    assert process.stdout is not None
    process.send_signal(signal.SIGINT)
    for line in process.stdout:
        if "cancel:" in line:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert platform.runs[run_id].status == "pending"
    assert not (tmp_path / "out").exists()
