"""Commands for what waits, for threads and schedules, and for runs of the past, against the real gateway."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from manta.cli.main import app
from manta.client import Client
from manta.config import ModelSettings
from serve_app.backends.sleep import SleepBackend
from tests.gateway.serving import Apart, served_apart


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    sleeper = SleepBackend("sleeper", ModelSettings(backend="sleep", step_s=(0.001, 0)))
    folder: Path = tmp_path_factory.mktemp("platform")
    with served_apart(folder, {"sleeper": sleeper}) as made:
        yield made


@pytest.fixture
def client(platform: Apart) -> Iterator[Client]:
    with Client(platform.url) as made:
        yield made


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def manta(platform: Apart, *arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["--url", platform.url, *arguments], input=stdin)


def done(platform: Apart, *arguments: str) -> str:
    result = manta(platform, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def waiting(client: Client, show: object = "Dear all") -> str:
    run = client.submit("ask", {"text": show})
    assert client.wait(run.id).run.status == "waiting"
    return run.id


def test_a_run_that_waits_shows_the_question_and_how_to_answer(platform: Apart, client: Client):
    result = manta(platform, "run", "--graph", "ask", "--input", '{"text": {"to": "all"}}')
    assert result.exit_code == 3
    assert not Path("out").exists()
    run = client.list(status="waiting")[0].id
    assert "waiting: ? check  Send it?" in result.stdout
    lines = result.stdout.splitlines()
    assert lines[lines.index(f"run {run} waits for a person") + 1 :] == [
        "  check: Send it?",
        "    {",
        '      "to": "all"',
        "    }",
        f"  approve: manta approve {run}",
        f"  edit:    manta approve {run} --edit JSON",
        f"  reject:  manta approve {run} --reject",
    ]
    result = manta(platform, "run", "--graph", "ask", "--input", '{"text": "x"}', "--json")
    assert result.exit_code == 3
    last = json.loads(result.stdout.splitlines()[-1])
    assert (last["type"], last["waiting"][0]["question"]) == ("waiting", "Send it?")


def test_approvals_are_listed(platform: Apart, client: Client):
    run = waiting(client)
    listed = done(platform, "approvals")
    assert run in listed
    assert "Send it?" in listed
    first = json.loads(done(platform, "approvals", "--json", "-n", "1"))
    assert (first["run_id"], first["step"], first["show"]) == (run, "check", "Dear all")
    shown = done(platform, "approve", run, "--show")
    assert "    Dear all" in shown
    assert f"manta approve {run} --reject" in shown
    assert json.loads(done(platform, "approve", run, "--show", "--json"))[0]["step"] == "check"
    status = done(platform, "show", run)
    assert "status   waiting" in status
    assert "? check" in status
    assert f"approve: manta approve {run}" in status
    assert run in done(platform, "runs", "--status", "waiting")


def test_approve(platform: Apart, client: Client):
    run = waiting(client)
    said = done(platform, "approve", run, "--comment", "fine", "--step", "check")
    assert f"approved; run {run} goes on" in said
    assert client.wait(run).output == {"output": "Dear all"}
    assert "nothing waits" in done(platform, "approve", run, "--show")
    late = manta(platform, "approve", run, "--reject")
    assert (late.exit_code, late.stderr.startswith("error: ")) == (1, True)


@pytest.mark.parametrize(
    ("given", "value"), [('"Dear both"', "Dear both"), ("@better.json", {"a": [1]}), ("0", 0)]
)
def test_approve_with_a_change(platform: Apart, client: Client, given: str, value: object):
    Path("better.json").write_text('{"a": [1]}')
    run = waiting(client)
    done(platform, "approve", run, "--edit", given)
    assert client.wait(run).output == (value if isinstance(value, dict) else {"output": value})


def test_reject(platform: Apart, client: Client):
    run = waiting(client)
    assert "rejected" in done(platform, "approve", run, "--reject", "--comment", "no")
    assert client.wait(run).run.failure().code == "rejected"
    assert "rejected by local: no" in done(platform, "show", run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--edit", "Dear"], "--edit is not JSON"),
        (["--resolve", "@nowhere"], "cannot read nowhere"),
        (["--reject", "--retry"], "cannot go together"),
        (["--edit", "1", "--resolve", "1"], "cannot go together"),
    ],
)
def test_wrong_answers_are_refused_before_anything_is_sent(platform: Apart, options: list[str], message: str):
    result = manta(platform, "approve", str(uuid.uuid4()), *options)
    assert result.exit_code == 1
    assert message in result.stderr


@pytest.mark.parametrize("option", [["--retry"], ["--resolve", "1"]])
def test_an_answer_that_does_not_fit(platform: Apart, client: Client, option: list[str]):
    result = manta(platform, "approve", waiting(client), *option)
    assert result.exit_code == 1
    assert "error: invalid_input: " in result.stderr


def test_logs_follow_a_run_past_its_approval(
    platform: Apart, client: Client, monkeypatch: pytest.MonkeyPatch
):
    run = waiting(client)
    # The pause between two looks is where the answer comes.
    monkeypatch.setattr("manta.cli.runs.time.sleep", lambda _: client.approve(run))
    lines = done(platform, "logs", run, "--follow").splitlines()
    assert any("run waiting for a person: check" in line for line in lines)
    assert any("decided: ? check  approve by local" in line for line in lines)
    assert lines[-1].endswith("run done")
    assert sum("started: draft" in line or "started: ● draft" in line for line in lines) == 1


def test_fork_resume_and_feedback(platform: Apart, client: Client):
    run = client.run("echo", {"a": 1}).run
    forked = json.loads(done(platform, "fork", run.id, "--step", "work", "--input", '{"value": 7}', "--json"))
    assert forked["forked_from"] == run.id
    assert client.wait(forked["id"]).output == {"output": 7}
    assert f"forked   from {run.id}" in done(platform, "show", forked["id"])
    assert "goes on from work" in done(platform, "fork", run.id, "--step", "work")
    assert manta(platform, "fork", run.id, "--step", "nowhere").exit_code == 1
    failed = client.submit("flaky", {})
    assert client.wait(failed.id).run.status == "error"
    assert f"run {failed.id} goes on" in done(
        platform, "resume", failed.id, "--budget", "tokens=10,seconds=1.5"
    )
    ended = client.wait(failed.id).run
    assert ended.budget is not None
    assert (ended.status, ended.budget.tokens, ended.budget.seconds) == ("success", 10, 1.5)
    assert "budget   tokens=10, seconds=1.5" in done(platform, "show", failed.id)
    assert "nothing was said" in done(platform, "feedback", run.id)
    done(platform, "feedback", run.id, "--rating", "4", "--comment", "good")
    assert "4/5  local  good" in done(platform, "feedback", run.id)
    assert json.loads(done(platform, "feedback", run.id, "--json"))[0]["rating"] == 4
    assert manta(platform, "feedback", run.id, "--rating", "6").exit_code == 2


def test_runs_with_options(platform: Apart, client: Client):
    thread = done(platform, "threads", "new").strip()
    hello = ["run", "hi", "--graph", "echo", "--thread", thread, "--budget", "tokens=9", "--priority", "-2"]
    done(platform, *hello, "--timeout", "60", "--webhook", "http://127.0.0.1:9/done")
    (run,) = client.list(thread=thread)
    assert (run.priority, run.webhook, run.deadline is not None) == (-2, "http://127.0.0.1:9/done", True)
    assert run.budget is not None
    assert run.budget.tokens == 9
    assert run.id in done(platform, "runs", "--thread", thread)
    assert f"thread   {thread}" in done(platform, "show", run.id)
    assert "no such runs" in done(platform, "runs", "--dead")
    for wrong in ("tokens", "tokens=x", "coins=1", "tokens=-1", "tokens=nan"):
        result = manta(platform, "run", "hi", "--graph", "echo", "--budget", wrong)
        assert (result.exit_code, "--budget cannot be" in result.stderr) == (1, True)
    missing = manta(platform, "run", "hi", "--graph", "echo", "--thread", str(uuid.uuid4()))
    assert "error: unknown_thread" in missing.stderr


def test_threads(platform: Apart, client: Client):
    thread = client.threads.create().id
    client.run("chat", {"messages": [{"role": "user", "content": "hi"}]}, thread=thread)
    listed = done(platform, "threads", "list")
    assert thread in listed
    assert "you said hi" in listed
    shown = done(platform, "threads", "show", thread)
    assert "user: hi\nassistant: you said hi, after 0 messages" in shown
    assert json.loads(done(platform, "threads", "show", thread, "--json"))["values"] == {"turns": 1}
    copied = done(platform, "threads", "copy", thread).strip()
    assert len(client.threads.get(copied).messages) == 2
    assert json.loads(done(platform, "threads", "list", "--json", "-n", "1"))["id"] == copied
    assert "deleted" in done(platform, "threads", "delete", copied)
    assert manta(platform, "threads", "show", copied).exit_code == 1
    assert "no threads" in done(platform, "threads", "list", "--status", "error")


def test_schedules(platform: Apart, client: Client):
    assert "no schedules yet" in done(platform, "schedules", "list", "--graph", "echo")
    added = done(
        platform, "schedules", "add", "echo", "0 7 * * 1-5", "--timezone", "Europe/Berlin", "--input", "{}"
    )
    name = added.split()[1]
    assert "next: 2" in added
    assert "0 7 * * 1-5 Europe/Berlin" in done(platform, "schedules", "list")
    assert "disabled" in done(platform, "schedules", "disable", name)
    assert "disabled" in done(platform, "schedules", "list")
    assert "next: 2" in done(platform, "schedules", "enable", name)
    assert json.loads(done(platform, "schedules", "list", "--json"))["enabled"] is True
    done(platform, "schedules", "remove", name)
    assert client.schedules.list(graph="echo") == []
    off = done(platform, "schedules", "add", "echo", "0 0 * * *", "--disabled")
    assert "when it is enabled" in off
    done(platform, "schedules", "remove", off.split()[1])
    for wrong in (["none", "0 7 * * *"], ["echo", "often"], ["echo", "0 7 * * *", "--timezone", "Mars"]):
        result = manta(platform, "schedules", "add", *wrong)
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


def test_a_conversation_with_a_graph(platform: Apart, client: Client):
    result = manta(platform, "chat", "--graph", "chat", stdin="one\ntwo\n\n")
    assert result.stdout == "you said one, after 0 messages\nyou said two, after 2 messages\n"
    thread = result.stderr.split()[-1]
    assert result.stderr == f"go on: manta chat --graph chat --thread {thread}\n"
    more = manta(platform, "chat", "three", "--graph", "chat", "--thread", thread)
    assert more.stdout == "you said three, after 4 messages\n"
    assert len(client.threads.get(thread).messages) == 6
    for wrong, message in (
        (["hi", "--graph", "echo"], "no graph 'echo' made for conversations; there are: chat"),
        (["hi", "--graph", "chat", "--model", "x"], "brings its own model"),
        (["hi", "--thread", thread], "no threads"),
        (["hi", "--graph", "chat", "--docs", "nowhere"], "no_such_folder"),
    ):
        refused = manta(platform, "chat", *wrong)
        assert (refused.exit_code, message in refused.stderr) == (1, True)
