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

from manta import jobs
from manta.client import Client
from manta.platform_process import running, stop
from tests.live.conftest import eventually, free_port

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
    # Ray's agents write their title over their environment; they are found as children.
    for process in list(marked):
        try:
            marked += process.children(recursive=True)
        except psutil.NoSuchProcess:
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


LOOK = """
import json, sys, ray
from ray import serve
ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
named = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if actor["namespace"] == "manta"]
print("FOUND " + json.dumps({"apps": sorted(serve.status().applications), "actors": sorted(named)}))
"""


def look(head: Head) -> dict[str, list[str]]:
    """The applications and Manta's actors on the cluster, seen from a process of its own."""
    environment = {**head.environment, "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-c", LOOK, head.environment["MANTA_RAY_ADDRESS"]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert found, done.stdout + done.stderr
    return json.loads(found[0].removeprefix("FOUND "))


def test_a_batch_runs_as_a_job_of_this_cluster(head: Head, tmp_path: Path):
    info = running(head.home / ".manta")
    assert info is not None
    (tmp_path / "tasks.jsonl").write_text('{"question": "How does a lock lift ships?", "id": "one"}\n')
    job = jobs.submit_batch(
        tmp_path / "tasks.jsonl", "research_report", tmp_path / "out.jsonl", platform=info
    )
    (last,) = list(jobs.follow(job))[-1:]
    # Without documents it asks the web, which a machine may not reach: the job has its result line all the same.
    assert last.done == last.total == 1
    assert json.loads((tmp_path / "out.jsonl").read_text())["id"] == "one"


def test_down_takes_the_platform_off_and_leaves_ray(head: Head):
    before = look(head)
    assert "manta" in before["apps"]
    assert "manta-coordinator" in before["actors"]
    assert stop(head.home / ".manta", timeout_s=60)
    eventually(lambda: look(head) == {"apps": [], "actors": []}, "the platform being gone", 120)


def test_serve_run_deploys_the_builder(head: Head):
    """After `down`, the same platform by Ray Serve's own command on the Ray that went on."""
    config = ROOT / "deploy/manta.cluster.yaml"
    command = ["serve", "run", "--address", head.environment["MANTA_RAY_ADDRESS"], "--non-blocking"]
    command += ["--name", "manta", "--route-prefix", "/", "serve_app.app:build", f"config={config}"]
    environment = {**head.environment, "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    with Client(f"http://127.0.0.1:{head.environment['MANTA_PORT']}") as client:
        eventually(lambda: client.ready().ready, "the platform being ready")
        assert (
            client.chat("What is the capital of France?", temperature=0).text
            == "The capital of France is Paris."
        )
