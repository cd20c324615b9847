"""Deaths on a platform of its own: replicas, the coordinator, everything, Ray's control service.

A platform takes half a minute to come up, so that only the death of everything is followed by another start; after the
death of Ray's control service, the last test, there is none.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from manta.client import Client
from manta.errors import BudgetExceeded, Conflict
from manta.platform_process import running, stop
from tests.live.conftest import ROOT, LivePlatform, bring_up, eventually, lean, make_platform
from tests.live.kills import begin, check, kill, wait_for_effects

TIMES = 2
ACTIVE = 20
ASK = {
    "name": "ask",
    "steps": [
        {"id": "draft", "agent": "writer-of-notes", "input": {"times": TIMES}},
        {"id": "check", "approval": {"question": "Send it?", "show": "${steps.draft}"}},
        {"id": "send", "tool": "note", "input": {"text": "${steps.check.decision}"}},
    ],
}
REPLICAS = {"num_cpus": 0.05}


@pytest.fixture(scope="module")
def own_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePlatform]:
    folder = tmp_path_factory.mktemp("faults")
    own = ROOT / "tests/live/own"
    for name in ("probes.py", "notes.yaml", "talk.yaml"):
        (folder / name).write_text((own / name).read_text())
    (folder / "ask.yaml").write_text(yaml.safe_dump(ASK))
    (folder / "late.yaml").write_text(
        (own / "talk.yaml").read_text().replace("talker", "late-talker").replace("name: talk", "name: late")
    )
    made = make_platform(
        folder,
        lean(
            {
                "models": {
                    "slow": {"backend": "sleep", "step_s": [0.05, 0.0], "replicas": REPLICAS},
                    # Its first token takes longer than finding and killing its process.
                    "late": {"backend": "sleep", "step_s": [4.0, 0.0], "replicas": REPLICAS},
                },
                "agents": {
                    "talker": {"use": "probes:talker", "model": "slow"},
                    "late-talker": {"use": "probes:talker", "model": "late"},
                    "writer-of-notes": {"use": "probes:noter", "concurrency": ACTIVE},
                },
                "tools": {"note": "probes:note"},
                "graphs": {
                    "notes": "notes.yaml",
                    "talk": "talk.yaml",
                    "late": "late.yaml",
                    "ask": "ask.yaml",
                },
            }
        ),
    )
    bring_up(made)
    yield made
    stop(made.home)


@pytest.fixture
def client(own_platform: LivePlatform) -> Iterator[Client]:
    with own_platform.client() as made:
        yield made


def kill_everything(platform: LivePlatform) -> None:
    info = running(platform.home)
    assert info is not None
    family = [psutil.Process(info.pid), *psutil.Process(info.pid).children(recursive=True)]
    for process in family:
        # Some die of the deaths before theirs.
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=30)
    assert running(platform.home) is None


def is_gapless(client: Client, run: str) -> bool:
    seen = [event.seq for event in client.stream(run) if event.seq]
    return seen == list(range(1, len(seen) + 1))


def test_a_replica_dies_before_its_first_byte(own_platform: LivePlatform, client: Client):
    run = client.submit("late", {"say": "hello", "calls": 1, "tokens": 1}).id
    [call] = eventually(lambda: own_platform.notes("model_call", run), "the model call")
    kill(psutil.Process(int(str(call["pid"]))))
    ended = client.wait(run, timeout=120)
    assert ended.run.status == "success", ended.run.error
    # Nothing was seen of it, so the call was made again under the same record, and the step knows nothing of it.
    assert len(own_platform.notes("model_call", run)) == 2
    assert [(step.key, step.attempt) for step in client.get(run).steps] == [("talk", 1)]
    assert [recorded.state for recorded in client.calls(run)] == ["done"]


def test_a_replica_dies_in_mid_stream(own_platform: LivePlatform, client: Client):
    run = client.submit("talk", {"say": "hello", "calls": 2, "tokens": 40}).id
    eventually(lambda: len(own_platform.notes("model_call", run)) == 2, "the second model call")
    with contextlib.closing(client.stream(run)) as events:
        next(event for event in events if event.type == "token")
    kill(psutil.Process(int(str(own_platform.notes("model_call", run)[-1]["pid"]))))
    ended = client.wait(run, timeout=120)
    assert ended.run.status == "success", ended.run.error
    assert ended.output["output"].count("word39") == 2
    # What was shown of the broken answer is not part of the result; the call before it was not made again.
    assert len(own_platform.notes("model_call", run)) == 3
    assert Counter(recorded.state for recorded in client.calls(run)) == {"done": 2}
    assert is_gapless(client, run)


def test_a_budget_ends_a_run_and_keeps_what_was_done(own_platform: LivePlatform, client: Client):
    asked = {"say": "hello", "calls": 3, "tokens": 3}
    run = client.submit("talk", asked, budget={"model_calls": 2}).id
    ended = client.wait(run, timeout=120)
    assert ended.run.status == "error"
    assert ended.run.error is not None
    assert ended.run.error.code == BudgetExceeded.code
    assert [recorded.state for recorded in client.calls(run)] == ["done", "done"]
    assert len(own_platform.notes("model_call", run)) == 2
    # More may be used now: what was paid for is replayed, and only the last call is made.
    client.resume(run, budget={"model_calls": 3})
    ended = client.wait(run, timeout=120)
    assert ended.run.status == "success", ended.run.error
    assert len(own_platform.notes("model_call", run)) == 3
    assert is_gapless(client, run)


def test_the_coordinator_dies_while_twenty_runs_are_active(
    own_platform: LivePlatform, client: Client, tmp_path: Path
):
    gate = tmp_path / "gate"
    runs = [client.submit("notes", {"times": TIMES, "gate": str(gate)}).id for _ in range(ACTIVE)]
    eventually(lambda: all(own_platform.notes("tool", run) for run in runs), "twenty side effects")
    kill(own_platform.processes("ray::CoordinatorActor")[0])
    gate.touch()
    for run in runs:
        ended = client.wait(run, timeout=180)
        assert ended.run.status == "success", ended.run.error
        # The first effect was committed before the death; none of it is done again.
        effects = Counter(line["number"] for line in own_platform.notes("tool", run))
        assert effects == dict.fromkeys(range(TIMES), 1)
        assert is_gapless(client, run)


def test_what_waits_and_what_works_outlive_the_death_of_everything(
    own_platform: LivePlatform, tmp_path: Path
):
    """After it the named kill point in the replica, once in all: a run goes on with a new replica."""
    once = tmp_path / "once"
    with own_platform.client() as client:
        asks = client.submit("ask", {}).id
        works = begin(client, tmp_path / "gate")
        wait_for_effects(own_platform, client, works)
        eventually(lambda: client.get(asks).status == "waiting", "the question")
    kill_everything(own_platform)
    (tmp_path / "gate").touch()
    bring_up(own_platform, MANTA_KILL_AT="replica.first_token:1", MANTA_KILL_ONCE=str(once))
    with own_platform.client() as client:
        # Its calls of models are all committed: none of them is made again.
        check(own_platform, client, works)
        assert not once.exists()
        assert [event.type for event in client.stream(works)].count("run_resumed") == 1
        _approved(own_platform, client, asks)
        check(own_platform, client, begin(client, tmp_path / "gate"), in_flight=1)
        assert once.exists()


def _approved(platform: LivePlatform, client: Client, run: str) -> None:
    assert client.get(run).status == "waiting"
    assert run in [approval.run_id for approval in client.approvals()]
    client.approve(run, comment="go")
    # An answer that is sent twice is one answer.
    client.approve(run, comment="go")
    ended = client.wait(run, timeout=120)
    assert ended.run.status == "success", ended.run.error
    assert ended.output["text"] == "approved"
    with pytest.raises(Conflict):
        client.reject(run)
    assert is_gapless(client, run)
    effects = Counter(line["number"] for line in platform.notes("tool", run))
    assert effects == dict.fromkeys(range(TIMES), 1)


def test_ray_s_control_service_dies_and_nothing_is_left(own_platform: LivePlatform):
    info = running(own_platform.home)
    assert info is not None
    supervisor = psutil.Process(info.pid)
    family = supervisor.children(recursive=True)
    next(p for p in family if p.name() == "gcs_server").kill()
    supervisor.wait(120)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert running(own_platform.home) is None
    assert "ray_died" in (own_platform.home / "logs/supervisor.log").read_text()
