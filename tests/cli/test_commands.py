"""The other commands, in this process, against a server that speaks the platform's HTTP."""

import json
import uuid
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from manta import __version__
from manta.cli.main import app
from manta.client import Client
from tests.client.platform_double import PlatformDouble


def manta(platform: PlatformDouble, *arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["--url", platform.url, *arguments], input=stdin)


@pytest.fixture
def client(platform: PlatformDouble):
    with Client(platform.url) as made:
        yield made


def test_version():
    assert CliRunner().invoke(app, ["--version"]).stdout == f"manta {__version__}\n"


def test_help_groups_the_commands_and_gives_examples():
    text = CliRunner().invoke(app, ["--help"]).stdout
    for word in ("Work", "Runs", "Platform", "manta run", "--install-completion", "Exit status"):
        assert word in text


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "chat",
        "batch",
        "docs",
        "docs add",
        "runs",
        "show",
        "cancel",
        "logs",
        "approvals",
        "approve",
        "fork",
        "resume",
        "feedback",
        "replay",
        "threads",
        "threads list",
        "threads new",
        "threads show",
        "threads copy",
        "threads delete",
        "schedules",
        "schedules list",
        "schedules add",
        "schedules remove",
        "schedules enable",
        "schedules disable",
        "gc",
        "gpus",
        "up",
        "down",
        "status",
        "doctor",
    ],
)
def test_every_command_explains_itself(command: str):
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_runs_and_show(platform: PlatformDouble, client: Client):
    assert "no runs yet" in manta(platform, "runs").stdout
    run = client.submit("echo", {"question": "why [bold]tides[/bold]?"})
    listed = manta(platform, "runs").stdout
    assert run.id in listed
    assert json.loads(manta(platform, "runs", "--json").stdout)["id"] == run.id
    shown = manta(platform, "show", run.id).stdout
    for word in ("status   success", "✓ work  worker  5 tokens  1.5 s", "[bold]tides[/bold]", "2 tokens in"):
        assert word in shown
    assert json.loads(manta(platform, "show", run.id, "--json").stdout)["steps"][0]["agent"] == "worker"


def test_show_of_a_failed_run_says_why(platform: PlatformDouble, client: Client):
    run = client.submit("echo", {"fail": "step_failed"})
    result = manta(platform, "show", run.id)
    assert "error    step_failed: it broke (mend it)" in result.stdout
    result = manta(platform, "show", run.id, "--out", "nowhere")
    assert result.exit_code == 1
    assert not Path("nowhere").exists()


@pytest.mark.parametrize("command", ["show", "logs"])
def test_an_unknown_run(platform: PlatformDouble, command: str):
    result = manta(platform, command, str(uuid.uuid4()))
    assert result.exit_code == 1
    assert result.stderr == "error: not_found: there is no such run (manta runs)\n"


def test_cancel(platform: PlatformDouble, client: Client):
    run = client.submit("hold", {})
    assert manta(platform, "cancel", run.id).exit_code == 0
    assert platform.runs[run.id].status == "interrupted"
    # A cancel that is repeated has done what it was to do.
    assert manta(platform, "cancel", run.id).exit_code == 0
    done = client.run("echo", {"x": 1}).run
    again = manta(platform, "cancel", done.id)
    assert (again.exit_code, again.stderr) == (1, "error: conflict: the run is over (nothing to do)\n")


def test_logs_of_a_run(platform: PlatformDouble, client: Client):
    run = client.submit("echo", {})
    lines = manta(platform, "logs", run.id).stdout.splitlines()
    assert lines[0].endswith(f"run {run.id} started: echo")
    assert lines[-1].endswith("run done")
    events = [json.loads(line) for line in manta(platform, "logs", run.id, "--json").stdout.splitlines()]
    assert [e["seq"] for e in events] == [1, 2, 3, 4]


def test_logs_of_a_run_that_goes_on_return(platform: PlatformDouble, client: Client):
    run = client.submit("hold", {})
    assert "started: ● work" in manta(platform, "logs", run.id).stdout


def test_logs_of_the_platform(tmp_path: Path):
    home = ["--home", str(tmp_path)]
    missing = CliRunner().invoke(app, [*home, "logs"])
    assert missing.exit_code == 1
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "supervisor.log").write_text("one\ntwo [x]\nthree\n")
    assert CliRunner().invoke(app, [*home, "logs", "-n", "2"]).stdout == "two [x]\nthree\n"


def test_docs(platform: PlatformDouble, tmp_path: Path):
    (tmp_path / "a.md").write_text("tides rise")
    (tmp_path / "b.bin").write_bytes(b"\0")
    assert "nothing there yet" in manta(platform, "docs", "list").stdout
    added = manta(platform, "docs", "add", "sea", str(tmp_path))
    assert added.exit_code == 0
    assert "1 documents in sea, 1 skipped" in added.stdout
    assert "skipped b.bin" in added.stderr
    assert "sea" in manta(platform, "docs", "list").stdout
    assert "a.md" in manta(platform, "docs", "list", "sea").stdout
    assert json.loads(manta(platform, "docs", "list", "sea", "--json").stdout)[0]["document"] == "a.md"
    found = manta(platform, "docs", "search", "sea", "rise").stdout
    assert "a.md [0:10]" in found
    assert "tides rise" in found
    assert "no passage" in manta(platform, "docs", "search", "sea", "fall").stdout
    none = manta(platform, "docs", "add", "sea", str(tmp_path / "b.bin"))
    assert (none.exit_code, none.stderr.splitlines()[-1].split(":")[1]) == (1, " unreadable_document")


def test_chat_once_and_in_turns(platform: PlatformDouble):
    assert manta(platform, "chat", "hello").stdout == "you said: hello \n"
    assert manta(platform, "chat", stdin="one\ntwo\n\n").stdout == "you said: one \nyou said: two \n"
    missing = manta(platform, "chat", "hello", "--model", "missing")
    assert (missing.exit_code, "there is no model" in missing.stderr) == (1, True)


def test_status(platform: PlatformDouble):
    up = manta(platform, "status")
    assert up.exit_code == 0
    assert "✓ coordinator: ready" in up.stdout
    platform.ready = False
    down = manta(platform, "status", "--json")
    assert down.exit_code == 1
    assert json.loads(down.stdout)["ready"] is False
    assert "not_ready" in down.stderr


def test_down_when_nothing_runs(tmp_path: Path):
    result = CliRunner().invoke(app, ["down", "--home", str(tmp_path / "none")])
    assert result.exit_code == 0
    assert "nothing runs" in result.stdout
    assert not (tmp_path / "none").exists()
