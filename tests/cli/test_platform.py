"""`up`, `down` and a `run` that starts the platform, as processes, with a stand-in for the supervisor."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from manta.platform_process import running, stop
from tests.client.platform_double import PlatformDouble
from tests.client.test_platform_process import SUPERVISOR, free_port, marked

ROOT = Path(__file__).parents[2]
STAND_IN = """
import runpy, sys
home = sys.argv[sys.argv.index("--home") + 1]
sys.argv = ["supervisor", home, {behaviour!r}, {url!r}]
runpy.run_path({path!r})
"""


class Shell:
    """Runs `manta` in a folder where `python -m serve_app` finds the stand-in."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url, self.home = folder, url, folder / "home"
        self.port = free_port()
        (folder / "serve_app").mkdir()
        # A package proper: without this the real one, later on the path, would be found before it.
        (folder / "serve_app" / "__init__.py").write_text("")
        self.behave("works")

    def behave(self, behaviour: str) -> None:
        text = STAND_IN.format(behaviour=behaviour, url=self.url, path=str(SUPERVISOR))
        (self.folder / "serve_app" / "__main__.py").write_text(text)

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MANTA_HOME": str(self.home)}
        environment["MANTA_PORT"] = str(self.port)
        command = [sys.executable, "-m", "manta.cli.main", *arguments]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=environment,
            check=False,
            timeout=120,
        )


@pytest.fixture
def shell(tmp_path: Path, platform: PlatformDouble) -> Iterator[Shell]:
    made = Shell(tmp_path, platform.url)
    yield made
    stop(made.home, 5)


def test_up_status_and_down(shell: Shell):
    up = shell("up")
    assert up.returncode == 0, up.stderr
    assert "ray ready  2 CPUs" in up.stdout
    assert f"ready at {shell.url}" in up.stdout
    assert shell("status").returncode == 0
    assert "already running" in shell("up").stdout
    assert shell("down").stdout == "stopped\n"
    assert marked(shell.home) == []
    assert "nothing runs" in shell("down").stdout


def test_up_that_fails_is_one_line_and_leaves_nothing(shell: Shell):
    shell.behave("dies")
    up = shell("up")
    assert up.returncode == 1
    assert up.stderr.count("\n") == 1
    assert "error: start_failed: " in up.stderr
    assert "no such thing as a free lunch" in up.stderr
    assert marked(shell.home) == []


def test_run_starts_the_platform_and_says_so(shell: Shell):
    done = shell("run", "Why tides?")
    assert done.returncode == 0, done.stderr
    assert "starting the platform" in done.stdout
    assert (shell.folder / "out" / "report.md").is_file()
    assert running(shell.home) is not None
    assert "starting" not in shell("run", "Why tides?").stdout


def test_bad_input_starts_nothing(shell: Shell):
    assert shell("run", "Why tides?", "--data", "nowhere.csv").returncode == 1
    assert not shell.home.exists()
