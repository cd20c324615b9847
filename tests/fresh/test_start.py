"""Starting and stopping: busy ports, broken models, a stop in the middle, a token nobody else can read."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from manta.config import load_settings
from manta.errors import PlatformError
from manta.platform_process import running, start
from serve_app.models.checkpoints import GGUF_MAGIC
from tests.live.conftest import eventually, free_port, lean, make_platform

MANTA = Path(sys.executable).parent / "manta"


def up(folder: Path, port: int, **settings: object) -> subprocess.CompletedProcess[str]:
    config = folder / "manta.yaml"
    config.write_text(yaml.safe_dump({"home": str(folder / "home"), "ray": {"dashboard": False}, **settings}))
    command = [MANTA, "--config", str(config), "up", "--port", str(port)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


def test_a_busy_port_is_named_with_the_fix(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = error_of(up(tmp_path, port))
    assert line.startswith("error: port_in_use")
    assert str(port) in line
    assert running(tmp_path / "home") is None


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"models": {"m": {"source": "none.gguf"}}}, "model_load_error"),
        ({"graphs": {"g": "none.yaml"}}, "invalid_config"),
        ({"models": {"m": {"backend": "remote"}}}, "invalid_config"),
        ({"nonsense": 1}, "invalid_config"),
    ],
)
def test_what_is_wrong_with_the_settings_is_said_before_anything_starts(
    tmp_path: Path, settings: dict[str, object], code: str
):
    line = error_of(up(tmp_path, free_port(), **settings))
    assert line.startswith(f"error: {code}")
    assert line.endswith(")")


def test_a_broken_model_file_fails_the_start_and_leaves_nothing(tmp_path: Path):
    (tmp_path / "noise.gguf").write_bytes(GGUF_MAGIC + os.urandom(100_000))
    done = up(
        tmp_path, free_port(), models={"m": {"source": "noise.gguf"}, "smollm2": None}, default_model="m"
    )
    assert error_of(done).startswith("error: model_load_error")
    assert not [
        p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])
    ]


def test_a_stop_in_the_middle_of_the_start_leaves_nothing(tmp_path: Path):
    made = make_platform(tmp_path, lean({"models": {"m": {"backend": "sleep"}}}))
    command = [sys.executable, "-m", "serve_app", "up", "--config", str(made.config)]
    command += ["--port", str(made.settings.server.port)]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    report = made.home / "startup.jsonl"
    eventually(lambda: report.exists() and '"ray", "state": "ready"' in report.read_text(), "Ray being up")
    family = process.children(recursive=True)
    process.terminate()
    process.wait(60)
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    assert '"stopped"' in report.read_text()


def test_a_wrong_setting_is_refused(tmp_path: Path):
    with pytest.raises(PlatformError):
        start(
            load_settings(None, {"MANTA_HOME": str(tmp_path)}),
            command=[sys.executable, "-c", "raise SystemExit(3)"],
        )
