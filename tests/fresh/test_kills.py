"""All processes die by SIGKILL in the middle of a run. The run ends, and what was committed is not done again."""

import contextlib
from pathlib import Path

import psutil
import pytest

from manta.platform_process import running, stop
from tests.live.conftest import ROOT, LivePlatform, bring_up, make_platform
from tests.live.kills import begin, check, wait_for_effects


@pytest.fixture(scope="module")
def own_platform(tmp_path_factory: pytest.TempPathFactory):
    """A platform of this module's own: all of it is going to be killed."""
    folder = tmp_path_factory.mktemp("doomed")
    own = ROOT / "tests/live/own"
    for name in ("probes.py", "notes.yaml"):
        (folder / name).write_text((own / name).read_text())
    made = make_platform(
        folder,
        {
            "models": {"slow": {"backend": "sleep", "step_s": [0.02, 0], "replicas": {"num_cpus": 0.05}}},
            "agents": {
                "talker": {"use": "probes:talker", "model": "slow"},
                "writer-of-notes": {"use": "probes:noter"},
            },
            "tools": {"note": "probes:note"},
            "graphs": {"notes": "notes.yaml"},
        },
    )
    bring_up(made)
    yield made
    stop(made.home)


def test_everything_dies_at_once_and_up_resumes(own_platform: LivePlatform, tmp_path: Path):
    with own_platform.client() as client:
        run = begin(client, tmp_path / "gate")
        wait_for_effects(own_platform, client, run)
    info = running(own_platform.home)
    family = [psutil.Process(info.pid), *psutil.Process(info.pid).children(recursive=True)]
    for process in family:
        # Some die of the deaths before theirs.
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=30)
    assert running(own_platform.home) is None
    (tmp_path / "gate").touch()
    bring_up(own_platform)
    with own_platform.client() as client:
        check(own_platform, client, run)
        kinds = [event.type for event in client.stream(run)]
    assert kinds.count("run_resumed") == 1


def test_down_leaves_no_process(own_platform: LivePlatform):
    info = running(own_platform.home)
    family = psutil.Process(info.pid).children(recursive=True)
    assert family
    assert stop(own_platform.home)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert running(own_platform.home) is None


def test_up_over_a_dead_ray_says_what_to_do(own_platform: LivePlatform):
    """The control service dies: the supervisor notices, clears up, and the next start works."""
    bring_up(own_platform)
    info = running(own_platform.home)
    supervisor = psutil.Process(info.pid)
    family = supervisor.children(recursive=True)
    next(p for p in family if p.name() == "gcs_server").kill()
    supervisor.wait(120)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert running(own_platform.home) is None
    assert "ray_died" in (own_platform.home / "logs/supervisor.log").read_text()


def test_a_replica_dies_at_its_first_token_once(own_platform: LivePlatform, tmp_path: Path):
    """The named kill point in the replica, met in a live platform; the run goes on with a new replica."""
    once = tmp_path / "once"
    bring_up(own_platform, MANTA_KILL_AT="replica.first_token:1", MANTA_KILL_ONCE=str(once))
    (tmp_path / "gate").touch()
    with own_platform.client() as client:
        run = begin(client, tmp_path / "gate")
        check(own_platform, client, run, in_flight=1)
    assert once.exists()
    assert stop(own_platform.home)
