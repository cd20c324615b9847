"""A node goes in the middle of a step, with the agent on it: the run ends on another one."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from manta.client import Client
from manta.platform_process import stop
from tests.cluster.test_head_start import MARK, _end_marked
from tests.live.conftest import ROOT, LivePlatform, bring_up, eventually, lean, make_platform

TIMES = 3


class Nodes:
    """The process that has the cluster; see `tests.cluster.nodes`."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.nodes", str(folder / "r")],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self._said("READY").split()[1]

    def remove_node_of(self, worker: int) -> None:
        _open(self._process.stdin).write(f"{worker}\n")
        _open(self._process.stdin).flush()
        self._said("REMOVED")

    def close(self) -> None:
        _open(self._process.stdin).close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _said(self, word: str) -> str:
        for line in _open(self._process.stdout):
            if line.startswith(word):
                return line
        raise AssertionError(f"the cluster ended without saying {word}")


def _open(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """What this cluster's Ray needs: a token of its own, a short path, and deaths that are noticed soon."""
    # Ray's sockets need a short path.
    home = Path(tempfile.mkdtemp(prefix="mn-"))
    token = home / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    # Where Ray notes its latest cluster; it does not make the folder.
    (home / "r/ray").mkdir(parents=True)
    mark = uuid.uuid4().hex
    yield {
        "HOME": str(home),
        "RAY_TMPDIR": str(home / "r"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
        # Workers have the environment of their node, not that of the platform's supervisor.
        "MANTA_LEDGER": str(home / "ledger.jsonl"),
        MARK: mark,
    }
    _end_marked(mark)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def nodes(environment: dict[str, str]) -> Iterator[Nodes]:
    made = Nodes(Path(environment["HOME"]), {**os.environ, **environment})
    yield made
    made.close()


@pytest.fixture(scope="module")
def platform(
    nodes: Nodes, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LivePlatform]:
    folder = tmp_path_factory.mktemp("node-lost")
    for name in ("probes.py", "notes.yaml"):
        (folder / name).write_text((ROOT / "tests/live/own" / name).read_text())
    made = make_platform(
        folder,
        lean(
            {
                "ray": {"address": nodes.address, "dashboard_port": 0},
                "models": {"slow": {"backend": "sleep", "step_s": [0.02, 0], "replicas": {"num_cpus": 0.05}}},
                "agents": {
                    "talker": {"use": "probes:talker", "model": "slow"},
                    # Only on the nodes that may go.
                    "writer-of-notes": {"use": "probes:noter", "num_cpus": 0.05, "resources": {"far": 1}},
                },
                "tools": {"note": "probes:note"},
                "graphs": {"notes": "notes.yaml"},
            }
        ),
    )
    made = replace(made, ledger=Path(environment["MANTA_LEDGER"]))
    bring_up(made, **environment)
    yield made
    stop(made.home)


def _committed(client: Client, run: str) -> bool:
    """The ledger has a line before the outcome is in the journal: nothing is to be in flight at the loss."""
    return any(call.kind == "tool" and call.state == "done" for call in client.calls(run))


def test_a_run_outlives_the_node_that_works_on_it(nodes: Nodes, platform: LivePlatform, tmp_path: Path):
    gate = tmp_path / "gate"
    with platform.client() as client:
        run = client.submit("notes", {"times": TIMES, "gate": str(gate)}).id
        eventually(lambda: _committed(client, run), "the first side effect")
        nodes.remove_node_of(int(str(platform.notes("tool", run)[0]["pid"])))
        gate.touch()
        ended = client.wait(run, timeout=240)
        assert ended.run.status == "success", ended.run.error
        assert ended.output["effects"] == list(range(TIMES))
        # The first was committed before the node went; the others came after it.
        effects = Counter(line["number"] for line in platform.notes("tool", run))
        assert effects == dict.fromkeys(range(TIMES), 1)
        assert len({line["pid"] for line in platform.notes("tool", run)}) == 2
        assert {step.key: step.attempt for step in client.get(run).steps}["effects"] > 1
        seen = [event.seq for event in client.stream(run) if event.seq]
    assert seen == list(range(1, len(seen) + 1))


def test_the_next_run_goes_on_what_is_left(platform: LivePlatform, tmp_path: Path):
    (tmp_path / "gate").touch()
    with platform.client() as client:
        given = {"times": TIMES, "gate": str(tmp_path / "gate")}
        assert client.run("notes", given, timeout=120).output["effects"] == list(range(TIMES))
