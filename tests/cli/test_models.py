"""`manta models` against the real gateway and registry; a keeper of the test's own deploys."""

import json
import math
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from coordinator.store.model_records import ArmTotals
from manta.cli.common import Session
from manta.cli.main import app
from manta.cli.models import complete_model
from manta.client import Client
from manta.config import ModelSettings
from serve_app.backends.sleep import SleepBackend
from tests.gateway.serving import Apart, served_apart

SLEEP = ModelSettings(backend="sleep").model_dump(mode="json")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    sleeper = SleepBackend("sleeper", ModelSettings(backend="sleep", step_s=(0.001, 0)))
    with served_apart(tmp_path_factory.mktemp("platform"), {"sleeper": sleeper}) as made:
        made.do(made.local.service.journal.models.declare({"sleeper": SLEEP}))
        yield made


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("manta.cli.model_wait.LOOK_S", 0.0)


@pytest.fixture
def name(platform: Apart) -> str:
    """A model of the test's own, whose version 1 answers."""
    made = f"m{uuid.uuid4().hex[:8]}"
    models = platform.local.service.journal.models
    platform.do(models.add(made, SLEEP))
    platform.do(models.activate(made, 1))
    return made


def manta(platform: Apart, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--url", platform.url, "models", *arguments])


def done(platform: Apart, *arguments: str) -> str:
    result = manta(platform, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(platform: Apart, *arguments: str) -> str:
    """The one line on stderr of a command that fails."""
    result = manta(platform, *arguments)
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    lines = result.stderr.splitlines()
    assert lines[-1].startswith("error: ")
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    return lines[-1]


def second(platform: Apart, name: str) -> None:
    done(platform, "add", name, "--backend", "sleep", "--set", "max_batch=2")


def test_a_canary_from_the_first_version_to_the_last(platform: Apart, name: str):
    added = manta(
        platform, "add", name, "--backend", "sleep", "--set", "max_batch=2", "--note", "smaller batches"
    )
    assert added.exit_code == 0
    assert added.stdout.splitlines() == [
        f"version 2 of {name} runs",
        f"  give it calls: manta models promote {name} 2",
    ]
    assert f"{name} version 2: running" in added.stderr
    listed = done(platform, "list")
    assert "sleeper (default)" in listed
    mine = [line.split()[1:4] for line in listed.splitlines() if line.startswith(name)]
    assert mine == [["1", "100", "%"], ["2", "-", "running"]]

    split = done(platform, "split", name, "1=90", "2=10", "--sticky", "user")
    assert split.splitlines() == [
        f"{name}: v1 90 %, v2 10 % (route 2)",
        f"  compare: manta models compare {name}",
    ]
    shown = done(platform, "status", name)
    assert "route    2  active  v1 90 %, v2 10 %  sticky by user  split by local" in shown
    assert "smaller batches" in shown
    assert done(platform, "promote", name) == f"{name}: v2 100 % (route 3)\n"
    assert done(platform, "promote", name, "2") == f"{name}: v2 100 % (route 3)\n"
    assert done(platform, "rollback", name).startswith(f"{name}: v1 90 %, v2 10 % (route 4)")
    assert done(platform, "promote", name, "1", "--keep", "0") == f"{name}: v1 100 % (route 5)\n"
    done(platform, "remove", name, "--version", "2")
    history = done(platform, "status", name).splitlines()
    assert [line.split()[0] for line in history[history.index("routes") + 1 :]] == ["5", "4", "3", "2", "1"]


def test_a_new_model_from_a_file(platform: Apart):
    Path("big.yaml").write_text("backend: sleep\nreplicas: {max: 2}\n")
    said = done(platform, "add", "big", "--file", "big.yaml", "--max", "3", "--set", "step_s=[0.001, 0]")
    assert said == "version 1 of big runs\n"
    model = json.loads(done(platform, "status", "big", "--json"))
    settings = model["versions"][0]["settings"]
    assert (settings["replicas"]["max"], settings["step_s"], model["route"]["state"]) == (
        3,
        [0.001, 0.0],
        "active",
    )
    Path("manta.yaml").write_text("models:\n  other: {backend: sleep, max_batch: 3}\n  more: {}\n")
    made = json.loads(done(platform, "add", "other", "-f", "manta.yaml", "--json"))
    assert (made["version"], made["settings"]["max_batch"], made["state"]) == (1, 3, "running")
    assert "it has: other, more" in refused(platform, "add", "third", "-f", "manta.yaml")
    listed = [json.loads(line)["name"] for line in done(platform, "list", "--json").splitlines()]
    assert {"big", "other", "sleeper"} <= set(listed)
    assert done(platform, "remove", "big") == "removed big\n"
    assert "model_not_found" in refused(platform, "status", "big")


def test_a_version_that_does_not_start_is_an_error_that_says_why(platform: Apart, name: str):
    platform.local.keeper._target.broken |= {"manta-model-lame-v1", f"manta-model-{name}-v2"}
    assert "route_failed: model 'lame' stays as it is, the change failed: there are no weights" in refused(
        platform, "add", "lame", "--backend", "sleep"
    )
    line = refused(platform, "add", name, "--backend", "sleep", "--set", "max_batch=2")
    assert f"version_failed: version 2 of '{name}' does not start: there are no weights" in line
    assert "route_failed" in refused(platform, "promote", name, "2")
    shown = done(platform, "status", name)
    assert "route    1  active  v1 100 %" in shown
    assert f"{name} version 2 failed: there are no weights" in shown


def test_what_is_not_waited_for_goes_on(platform: Apart, monkeypatch: pytest.MonkeyPatch):
    keeper = platform.local.keeper._target
    monkeypatch.setattr(keeper, "idle", True)
    said = done(platform, "add", "slow", "--backend", "sleep", "--no-wait")
    assert said == "version 1 of slow is on its way\n"
    further = ["add", "slow", "--backend", "sleep", "--set", "max_batch=2"]
    assert "wait_timeout" in refused(platform, *further, "--timeout", "0")
    pending = done(platform, "promote", "slow", "2", "--no-wait")
    assert pending.splitlines() == ["slow: v2 100 % (route 2) is to come", "  when: manta models status slow"]
    assert "slow: v2 100 % as soon as they run" in done(platform, "list")
    assert "wait_timeout" in refused(platform, "promote", "slow", "2", "--timeout", "0")
    monkeypatch.setattr(keeper, "idle", False)
    assert done(platform, "promote", "slow", "2") == "slow: v2 100 % (route 2)\n"


def test_leaving_ends_the_waiting_and_not_the_change(
    platform: Apart, name: str, monkeypatch: pytest.MonkeyPatch
):
    second(platform, name)

    def leave(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as leaving:
        leaving.setattr("manta.cli.model_wait.time.sleep", leave)
        result = manta(platform, "promote", name, "2")
    assert (result.exit_code, result.stdout) == (130, "")
    assert f"the change goes on: manta models status {name}" in result.stderr
    assert done(platform, "promote", name, "2") == f"{name}: v2 100 % (route 2)\n"


def test_a_coordinator_that_is_away_for_a_moment_ends_no_wait(
    platform: Apart, name: str, monkeypatch: pytest.MonkeyPatch
):
    second(platform, name)
    coordinator, models = platform.local.coordinator, platform.local.service.journal.models
    ask, left = coordinator.call, ["once", "again"]

    async def away_at_first(method: str, *arguments: Any, **options: Any) -> Any:
        if left and arguments[:2] == ("models", "get") and (await models.get(name)).pending is not None:
            left.pop()
            raise coordinator.trouble
        return await ask(method, *arguments, **options)

    monkeypatch.setattr(coordinator, "call", away_at_first)
    result = manta(platform, "promote", name, "2")
    assert (result.exit_code, result.stdout) == (0, f"{name}: v2 100 % (route 2)\n")
    assert (left, "waiting: it restarts" in result.stderr) == ([], True)


def test_scale(platform: Apart, name: str):
    assert done(platform, "scale", name, "--min", "2", "--max", "4") == (
        f"version 1 of {name}: 2 to 4 replicas\n"
    )
    scaled = json.loads(done(platform, "scale", name, "--set", "target_ongoing=2", "--json"))
    assert (scaled["settings"]["replicas"]["target_ongoing"], scaled["version"]) == (2, 1)
    scaled = json.loads(done(platform, "scale", name, "--set", "resources.big=0.5", "--json"))
    assert scaled["settings"]["replicas"]["resources"] == {"big": 0.5}
    assert "give --min, --max or --set" in refused(platform, "scale", name)
    assert "replicas" in refused(platform, "scale", name, "--min", "9")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["split", "sleeper", "1:90"], "no share of a version: '1:90'"),
        (["split", "sleeper", "1=90", "1=10"], "version 1 is there twice"),
        (["split", "sleeper", "1=0"], "no share"),
        (["split", "sleeper", "1=1", "--sticky", "moon"], "sticky"),
        (["split", "sleeper", "7=1"], "version_not_found"),
        (["add", "sleeper"], "nothing is said of the model"),
        (["add", "sleeper", "--file", "nowhere.yaml"], "cannot read nowhere.yaml"),
        (["add", "sleeper", "--file", "list.yaml"], "does not hold settings"),
        (["add", "sleeper", "--file", "broken.yaml"], "is not YAML"),
        (["add", "sleeper", "--set", "max_batch"], "KEY=VALUE"),
        (["add", "sleeper", "--set", "max_batch=[1"], "not YAML"),
        (["add", "sleeper", "--set", "note=2024-01-02"], "--set note: this has no place in JSON"),
        (["add", "sleeper", "--set", "max_batch=.inf"], "no place in JSON"),
        (["add", "sleeper", "--set", "max_batch=2024-13-45"], "not YAML"),
        (["add", "sleeper", "--file", "dated.yaml"], "dated.yaml: this has no place in JSON"),
        (["scale", "sleeper", "--set", "version=2"], "name a version by --version"),
        (["scale", "sleeper", "--set", "name=2"], "replicas has no such setting"),
        (["add", "sleeper", "--set", "backend=sleep", "--set", "backend.x=1"], "is no section"),
        (["add", "sleeper", "--backend", "magic"], "settings.backend"),
        (["add", "sleeper", "--backend", "sleep"], "model_version_exists"),
        (["add", "Sleeper", "--backend", "sleep"], "invalid_input"),
        (["promote", "nobody"], "model_not_found"),
        (["rollback", "sleeper"], "no_earlier_route"),
        (["remove", "sleeper"], "model_in_use"),
        (["remove", "sleeper", "--version", "1"], "version_in_use"),
        (["compare", "sleeper"], "no_comparison"),
    ],
)
def test_wrong_usage_is_one_line(platform: Apart, words: list[str], message: str):
    Path("list.yaml").write_text("- 1\n")
    Path("broken.yaml").write_text("a: [1\n")
    Path("dated.yaml").write_text("since: 2024-01-02\n")
    assert message in refused(platform, *words)


def tell(platform: Apart, name: str, version: int, calls: int, failures: int, seconds: float) -> None:
    """What a process saw of a version of route 2: times around `seconds` that vary by a tenth."""
    n, log = calls - failures, math.log(seconds)
    logs = [log + (0.1 if number % 2 else -0.1) for number in range(n)]
    sums = {"first_log_sum": math.fsum(logs), "first_log_squares": math.fsum(x * x for x in logs)}
    sums |= {key.replace("first", "total"): value for key, value in sums.items()}
    totals = ArmTotals(name, 2, version, calls, failures, n, output_tokens=n, **sums)
    platform.do(platform.local.service.journal.models.record(f"meter{version}", [totals]))


def test_versions_are_compared_in_words(platform: Apart, name: str):
    second(platform, name)
    done(platform, "split", name, "1=50", "2=50")
    assert "There are not observations enough yet to say anything." in done(platform, "compare", name)
    tell(platform, name, 1, 200, 4, 2.0)
    tell(platform, name, 2, 200, 4, 1.0)
    shown = done(platform, "compare", name)
    assert [line.split() for line in shown.splitlines() if line.startswith("calls")] == [
        ["calls", "200", "200"]
    ]
    (faster,) = [line for line in shown.splitlines() if line.startswith("first piece") and "[" in line]
    assert "-50 [-5" in faster
    assert faster.rstrip().endswith("<0.001  significantly better")
    (failing,) = [line for line in shown.splitlines() if line.startswith("failed calls") and "[" in line]
    assert "no significant difference" in failing
    (rating,) = [line for line in shown.splitlines() if line.startswith("rating") and "too early" in line]
    assert "version 1 has 0 of 30 observations" in rating
    assert shown.splitlines()[-1] == (
        "Version 2 is significantly better in: first piece, whole answer. "
        "Not observations enough yet for: rating of runs."
    )
    compared = json.loads(done(platform, "compare", name, "--revision", "2", "--json"))
    assert (compared["baseline"], compared["enough"], len(compared["arms"])) == (1, True, 2)
    assert "no_comparison" in refused(platform, "compare", name, "--revision", "1")


def test_a_worse_version_is_called_so(platform: Apart, name: str):
    second(platform, name)
    done(platform, "split", name, "1=50", "2=50")
    tell(platform, name, 1, 400, 0, 1.0)
    tell(platform, name, 2, 400, 80, 1.0)
    assert "Version 2 is significantly worse in: failed calls." in done(platform, "compare", name)


def test_names_complete_in_the_shell(platform: Apart, name: str):
    class Context:
        def find_root(self) -> "Context":
            return self

        def find_object(self, kind: type) -> Session:
            return Session(url=platform.url)

    assert complete_model(Context(), name[:-1]) == [name]  # type: ignore[arg-type]
    assert complete_model(Context(), "nothing") == []  # type: ignore[arg-type]


def test_the_key_of_a_repeated_add_is_kept(platform: Apart, name: str):
    with Client(platform.url) as client:
        made = [client.models.add(name, {"max_batch": 3}, idempotency_key="k") for _ in range(2)]
    assert [version.version for version in made] == [2, 2]
