"""A process dies by SIGKILL in the middle of a run. The run ends, and what was committed is not done again."""

import threading
from pathlib import Path

import psutil

from manta.client import Client
from tests.live.conftest import LivePlatform, eventually
from tests.live.kills import begin, check, kill, wait_for_effects


def test_an_agent_actor_dies_in_mid_step(platform: LivePlatform, client: Client, tmp_path: Path):
    run = begin(client, tmp_path / "gate")
    wait_for_effects(platform, client, run)
    pids = {note["pid"] for note in platform.notes("tool", run)}
    kill(psutil.Process(int(str(pids.pop()))))
    (tmp_path / "gate").touch()
    check(platform, client, run)
    steps = {step.key: step for step in client.get(run).steps}
    assert steps["effects"].attempt == 2


def test_the_coordinator_dies_in_mid_run(platform: LivePlatform, client: Client, tmp_path: Path):
    run = begin(client, tmp_path / "gate")
    wait_for_effects(platform, client, run)
    seen = []
    watcher = threading.Thread(
        target=lambda: seen.extend(event.seq for event in client.stream(run) if event.seq)
    )
    watcher.start()
    kill(platform.processes("ray::CoordinatorActor")[0])
    (tmp_path / "gate").touch()
    check(platform, client, run)
    watcher.join(60)
    assert seen == list(range(1, len(seen) + 1))
    assert not watcher.is_alive()


def test_a_model_replica_dies_in_mid_stream(platform: LivePlatform, client: Client):
    run = client.submit("talk", {"say": "hello", "calls": 3, "tokens": 30}).id
    eventually(lambda: len(platform.notes("model_call", run)) == 2, "the second model call")
    kill(psutil.Process(int(str(platform.notes("model_call", run)[-1]["pid"]))))
    ended = client.wait(run, timeout=120)
    assert ended.run.status == "success", ended.run.error
    assert ended.output["output"].count("word29") == 3
    # The first call was committed; only the one in flight was made again.
    assert len(platform.notes("model_call", run)) == 4
