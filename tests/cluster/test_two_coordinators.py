"""Two coordinators on one PostgreSQL: any of them answers for all runs, and one takes over from the other."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, select

from coordinator.store.engine import normalise_url
from coordinator.store.schema import runs as runs_table
from manta.client import Client
from manta.platform_process import running, stop
from tests.live.conftest import ROOT, LivePlatform, bring_up, eventually, lean, make_platform
from tests.store.support import postgres_server

FIRST, SECOND = "manta-coordinator", "manta-coordinator-1"
TIMES = 2
RUNS = 8

ASK_RAY = """
import json, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
if len(sys.argv) > 2:
    ray.kill(ray.get_actor(sys.argv[2], namespace="manta"), no_restart=True)
actors = ray.util.list_named_actors(all_namespaces=True)
print("FOUND " + json.dumps(sorted(actor["name"] for actor in actors if actor["namespace"] == "manta")))
"""


@pytest.fixture(scope="module")
def store_url() -> Iterator[str]:
    with postgres_server() as server:
        yield server.database()


@pytest.fixture(scope="module")
def platform(store_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePlatform]:
    folder = tmp_path_factory.mktemp("two")
    for name in ("probes.py", "notes.yaml"):
        (folder / name).write_text((ROOT / "tests/live/own" / name).read_text())
    made = make_platform(
        folder,
        lean(
            {
                "store_url": store_url,
                "coordinator": {"replicas": 2, "lease_s": 4},
                "models": {"slow": {"backend": "sleep", "step_s": [0.02, 0], "replicas": {"num_cpus": 0.05}}},
                "agents": {
                    "talker": {"use": "probes:talker", "model": "slow"},
                    "writer-of-notes": {"use": "probes:noter", "concurrency": RUNS},
                },
                "tools": {"note": "probes:note"},
                "graphs": {"notes": "notes.yaml"},
            }
        ),
    )
    bring_up(made)
    yield made
    stop(made.home)


def actors(platform: LivePlatform, *killed: str) -> list[str]:
    """Manta's named actors, after one was killed for good if one is named; seen from a process of its own."""
    info = running(platform.home)
    assert info is not None
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": info.token_path}
    command = [sys.executable, "-c", ASK_RAY, info.ray_address, *killed]
    environment = {**os.environ, **token, "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert found, done.stdout + done.stderr
    names: list[str] = json.loads(found[0].removeprefix("FOUND "))
    return names


def owners(url: str) -> dict[str, str]:
    engine = create_engine(normalise_url(url))
    with engine.connect() as connection:
        found = connection.execute(select(runs_table.c.id, runs_table.c.owner)).all()
    engine.dispose()
    return {run: owner for run, owner in found}


def begin(client: Client, gate: Path) -> str:
    return client.submit("notes", {"times": TIMES, "gate": str(gate)}).id


def test_both_are_up(platform: LivePlatform):
    assert {FIRST, SECOND} <= set(actors(platform))


def test_one_dies_for_good_and_the_other_ends_its_runs(
    platform: LivePlatform, store_url: str, tmp_path: Path
):
    gate = tmp_path / "gate"
    seen: dict[str, list[int]] = {}
    with platform.client() as client:
        mine = [begin(client, gate) for _ in range(RUNS)]
        eventually(lambda: all(platform.notes("tool", run) for run in mine), "the first effects")
        by_owner = {name: [r for r in mine if owners(store_url)[r] == name] for name in (FIRST, SECOND)}
        assert all(by_owner.values()), "the gateway uses both"

        # Any of them answers for the runs of both: watched, and cancelled.
        def watch(run: str) -> None:
            with platform.client() as own:
                seen[run] = [event.seq for event in own.stream(run) if event.seq]

        watchers = [threading.Thread(target=watch, args=(run,)) for run in mine]
        for watcher in watchers:
            watcher.start()
        given_up = [by_owner[name].pop() for name in (FIRST, SECOND)]
        for run in given_up:
            client.cancel(run, wait=True)
            assert client.get(run).reason == "cancelled"

        assert SECOND not in actors(platform, SECOND)
        gate.touch()
        left = [run for run in mine if run not in given_up]
        for run in left:
            ended = client.wait(run, timeout=120)
            assert ended.run.status == "success", ended.run.error
            effects = Counter(line["number"] for line in platform.notes("tool", run))
            assert effects == dict.fromkeys(range(TIMES), 1)
        assert {owners(store_url)[run] for run in left} == {FIRST}
        for watcher in watchers:
            watcher.join(60)
            assert not watcher.is_alive()
        for run in mine:
            assert seen[run] == list(range(1, len(seen[run]) + 1))
            assert len(seen[run]) == client_events(client, run)


def client_events(client: Client, run: str) -> int:
    return max(event.seq for event in client.stream(run))


def test_the_one_that_is_left_takes_new_runs(platform: LivePlatform, tmp_path: Path):
    (tmp_path / "gate").touch()
    with platform.client() as client:
        for _ in range(4):
            given = {"times": TIMES, "gate": str(tmp_path / "gate")}
            assert client.run("notes", given, timeout=120).output["effects"] == list(range(TIMES))
