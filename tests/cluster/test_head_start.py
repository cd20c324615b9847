"""The head start commands of cluster.yaml, as they stand, on this machine; then a run on what they started."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from manta.client import Client
from tests.live.conftest import free_port

ROOT = Path(__file__).resolve().parents[2]
MARK = "MANTA_TEST_CLUSTER"


@dataclass(frozen=True)
class Head:
    home: Path
    environment: dict[str, str]
    printed: str

    @property
    def state(self) -> dict[str, str]:
        return json.loads((self.home / ".manta/platform.json").read_text())


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # Ray's sockets need a short path.
    home = Path(tempfile.mkdtemp(prefix="mh-"))
    (home / "manta").symlink_to(ROOT)
    port = str(free_port())
    mark = uuid.uuid4().hex
    environment = {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_TMPDIR": str(home / "r"),
        "MANTA_RAY_PORT": port,
        "MANTA_RAY_ADDRESS": f"127.0.0.1:{port}",
        "MANTA_PORT": str(free_port()),
        "MANTA_START_S": "240",
        MARK: mark,
    }
    environment.pop("RAY_AUTH_TOKEN_PATH", None)
    commands = yaml.safe_load((ROOT / "cluster.yaml").read_text())["head_start_ray_commands"]
    try:
        printed = [_run(command, environment) for command in commands]
        yield Head(home, environment, "\n".join(printed))
    finally:
        _end_marked(mark)
        shutil.rmtree(home, ignore_errors=True)


def _run(command: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _end_marked(mark: str) -> None:
    """End what the commands started, and nothing else: their environment tells them apart."""
    marked = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.pid != os.getpid():
                marked.append(process)
        except psutil.Error:
            continue
    for process in marked:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(marked, timeout=20)


def test_a_run_is_made_on_the_cluster_they_started(head: Head):
    with Client(head.state["address"]) as client:
        client.add_document(
            "ships", b"A lock lifts ships. Water flows in until the levels are equal.", name="locks.md"
        )
        client.add_document(
            "ships", b"A canal lock lifts a ship by filling its chamber with water.", name="canals.md"
        )
        given = {"question": "How does a lock lift ships?", "collection": "ships", "max_questions": 1}
        result = client.run("research_report", given, timeout=240)
    report = result.output["report"]
    assert report["citations"]
    assert {citation["document"] for citation in report["citations"]} <= {"locks.md", "canals.md"}


def test_the_token_is_the_heads_own_and_private(head: Head):
    token = head.home / ".ray/auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) == 64


def test_the_commands_can_be_repeated(head: Head):
    before = head.state["pid"]
    for command in yaml.safe_load((ROOT / "cluster.yaml").read_text())["head_start_ray_commands"]:
        _run(command, head.environment)
    assert head.state["pid"] == before


def test_dashboard_and_gateway_are_on_loopback(head: Head):
    assert head.state["dashboard"].startswith("http://127.0.0.1:")
    assert head.state["address"].startswith("http://127.0.0.1:")
