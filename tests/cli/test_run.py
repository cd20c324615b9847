"""`manta run` from question to files, in this process, against a server that speaks the platform's HTTP."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from manta.cli.main import app
from tests.client.platform_double import PNG, PlatformDouble

pytestmark = pytest.mark.usefixtures("in_folder")


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    docs = tmp_path / "docs" / "deep"
    docs.mkdir(parents=True)
    (docs.parent / "a.md").write_text("Tides rise.")
    (docs / "b.txt").write_text("Tides fall.")
    (docs.parent / ".hidden").write_text("no")
    (tmp_path / "data.csv").write_text("x,y\n1,2\n3,4\n")


def manta(platform: PlatformDouble, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--url", platform.url, "--home", "home", *arguments])


def only_run(platform: PlatformDouble) -> Any:
    (run,) = platform.runs.values()
    return run


def test_a_question_becomes_files(platform: PlatformDouble):
    result = manta(
        platform, "run", "Why tides?", "--docs", "docs", "--data", "data.csv", "--max-questions", "2"
    )
    assert result.exit_code == 0, result.output
    assert Path("out/report.md").read_text().startswith("# Report")
    assert json.loads(Path("out/report.json").read_text())["question"] == "Why tides?"
    assert Path("out/chart.png").read_bytes() == PNG
    assert sorted(p.name for p in Path("out").iterdir()) == ["chart.png", "report.json", "report.md"]
    assert "wrote out/report.md" in result.stdout
    assert "1 citations, 1 unsupported sentences dropped" in result.stdout
    assert platform.url in result.stdout
    run = only_run(platform)
    assert run.key
    assert (run.input["question"], run.input["max_questions"]) == ("Why tides?", 2)
    assert [d["name"] for d in run.input["data"]] == ["data.csv"]
    assert sorted(platform.documents[run.input["collection"]]) == ["a.md", "deep/b.txt"]


def test_without_documents_it_is_a_web_search(platform: PlatformDouble):
    assert manta(platform, "run", "Why tides?").exit_code == 0
    assert only_run(platform).input == {
        "question": "Why tides?",
        "collection": None,
        "data": [],
        "max_questions": 3,
    }


def test_plain_lines_when_it_is_no_terminal(platform: PlatformDouble):
    lines = manta(platform, "run", "Why tides?").stdout.splitlines()
    assert any(line.endswith("started: ● work  worker  0.0 s") for line in lines)
    assert any("done: ✓ work  worker  5 tokens  1.5 s" in line for line in lines)


def test_json_is_one_event_per_line_and_nothing_else(platform: PlatformDouble):
    result = manta(platform, "run", "Why tides?", "--docs", "docs", "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [e["type"] for e in events] == [
        "run_started",
        "step_started",
        "token",
        "step_done",
        "run_done",
        "result",
    ]
    assert events[-1]["files"] == ["out/chart.png", "out/report.md", "out/report.json"]
    assert "2 read" in result.stderr


def test_detach_leaves_with_the_id(platform: PlatformDouble):
    result = manta(platform, "run", "--graph", "hold", "x", "--detach")
    assert result.exit_code == 0
    assert only_run(platform).id in result.stdout
    assert only_run(platform).status == "pending"
    assert not Path("out").exists()


def test_another_graph_leaves_its_output(platform: PlatformDouble):
    Path("input.json").write_text('{"topic": "tides"}')
    assert (
        manta(platform, "run", "--graph", "echo", "--input", "@input.json", "--out", "there/deep").exit_code
        == 0
    )
    assert json.loads(Path("there/deep/output.json").read_text()) == {"topic": "tides"}


def test_unreadable_documents_are_skipped_with_a_line(platform: PlatformDouble):
    Path("docs/c.bin").write_bytes(b"\0\0")
    result = manta(platform, "run", "Why tides?", "--docs", "docs")
    assert result.exit_code == 0
    assert "skipped c.bin: there is no text in it" in result.stdout
    assert "2 read, 0 unchanged, 1 skipped" in result.stdout


def test_none_readable_is_an_error_and_no_run(platform: PlatformDouble):
    Path("bad").mkdir()
    Path("bad/c.bin").write_bytes(b"\0\0")
    result = manta(platform, "run", "Why tides?", "--docs", "bad")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: unreadable_document: none of the 1 files in bad can be read")
    assert platform.runs == {}


def test_unchanged_documents_are_not_sent_again(platform: PlatformDouble):
    manta(platform, "run", "Why tides?", "--docs", "docs")
    Path("docs/a.md").write_text("Tides rise twice.")
    result = manta(platform, "run", "Why tides?", "--docs", "docs")
    assert "1 read, 1 unchanged, 0 skipped" in result.stdout
    assert sum(method == "PUT" for method, _, _ in platform.requests) == 3
    assert len(platform.documents) == 1


def test_a_removed_document_is_not_searched(platform: PlatformDouble):
    manta(platform, "run", "Why tides?", "--docs", "docs")
    Path("docs/a.md").unlink()
    manta(platform, "run", "Why tides?", "--docs", "docs")
    collection = list(platform.runs.values())[-1].input["collection"]
    assert list(platform.documents[collection]) == ["deep/b.txt"]


def test_a_failed_run_writes_nothing(platform: PlatformDouble):
    result = manta(platform, "run", "x", "--graph", "echo", "--input", '{"fail": "step_failed"}')
    assert result.exit_code == 1
    assert result.stderr == "error: step_failed: it broke (mend it)\n"
    assert not Path("out").exists()


def test_a_report_whose_chart_is_lost_writes_nothing(platform: PlatformDouble):
    held = manta(platform, "run", "--graph", "hold", "x", "--detach")
    assert held.exit_code == 0
    run = only_run(platform)
    missing = {"name": "c.png", "sha256": "0" * 64, "size": 1, "media_type": "image/png"}
    output = {"report": {"citations": []}, "markdown": "# x", "artifacts": [missing]}
    platform._succeed(run, output)
    result = manta(platform, "show", run.id, "--out", "out")
    assert result.exit_code == 1
    assert "there is no such file" in result.stderr
    assert not Path("out").exists()


def test_an_older_report_is_replaced(platform: PlatformDouble):
    Path("out").mkdir()
    Path("out/report.md").write_text("old")
    Path("out/mine.txt").write_text("mine")
    assert manta(platform, "run", "Why tides?").exit_code == 0
    assert Path("out/report.md").read_text() != "old"
    assert Path("out/mine.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/evil.png", "a\\..\\evil.png", "..", "report.json"])
def test_artifacts_stay_in_the_folder(platform: PlatformDouble, name: str):
    manta(platform, "run", "--graph", "hold", "x", "--detach")
    run = only_run(platform)
    sha = hashlib.sha256(PNG).hexdigest()
    platform.files[sha] = PNG
    artifact = {"name": name, "sha256": sha, "size": 1, "media_type": "image/png"}
    platform._succeed(run, {"report": {"citations": []}, "markdown": "# x", "artifacts": [artifact]})
    assert manta(platform, "show", run.id, "--out", "out").exit_code == 0
    files = {p.name: p for p in Path("out").iterdir()}
    assert len(files) == 3
    assert json.loads(files["report.json"].read_text()) == {"citations": []}


BAD = [
    (["run", "   "], "empty_question"),
    (["run"], "empty_question"),
    (["run", "--graph", "echo"], "invalid_input: nothing to give"),
    (["run", "q", "--docs", "nowhere"], "no_such_folder"),
    (["run", "q", "--docs", "empty"], "no_documents"),
    (["run", "q", "--data", "nowhere.csv"], "unreadable_data: cannot read nowhere.csv"),
    (["run", "q", "--data", "docs"], "unreadable_data"),
    (["run", "q", "--data", "empty.csv"], "unreadable_data: empty.csv is not a CSV table: it is empty"),
    (["run", "q", "--data", "header.csv"], "no row below its header"),
    (["run", "q", "--data", "prose.csv"], "unreadable_data: prose.csv is not a CSV table"),
    (["run", "q", "--data", "binary.csv"], "it is binary"),
    (["run", "q", "--data", "ragged.csv"], "do not have the same columns"),
    (["run", "q", "--input", "{"], "--input is not JSON"),
    (["run", "q", "--input", "[]"], "must be a JSON object"),
    (["run", "q", "--input", "@nowhere"], "cannot read nowhere"),
    (["run", "q", "--out", "data.csv"], "bad_out_folder"),
    (["run", "q", "--out", "data.csv/deep"], "bad_out_folder"),
    (["batch", "nowhere.jsonl"], "cannot read nowhere.jsonl"),
    (["batch", "empty.csv"], "has no line"),
    (["docs", "add", "c", "nowhere"], "no_such_folder"),
    (["docs", "search", "c", " "], "empty_question"),
    (["--config", "nowhere.yaml", "run", "q"], "invalid_config"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_line_before_anything_starts(
    platform: PlatformDouble, arguments: list[str], message: str
):
    Path("empty").mkdir()
    Path("empty.csv").write_text("\n")
    Path("header.csv").write_text("a,b\n")
    Path("prose.csv").write_text(
        "Dear all,\nthis is a letter.\nIt has no columns, I am afraid, and no rows.\nBye\n"
    )
    Path("binary.csv").write_bytes(b"a,b\n\0\1,2\n")
    Path("ragged.csv").write_text("a,b\n1\n1,2,3\n")
    result = CliRunner().invoke(app, arguments) if arguments[0] == "--config" else manta(platform, *arguments)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert platform.requests == []
    assert not Path("out").exists()
    assert not Path("home").exists()


@pytest.mark.parametrize(
    "text", ["a;b\n1;2\n", "a\tb\n1\t2\n", '\ufeffa,b\n"x,\ny",2\n', "a,b\n1,2\n\n3,4\n"]
)
def test_tables_come_in_several_dresses(platform: PlatformDouble, text: str):
    Path("t.csv").write_text(text)
    assert manta(platform, "run", "q", "--data", "t.csv").exit_code == 0


def test_an_unknown_graph_is_refused_before_documents_are_sent(platform: PlatformDouble):
    result = manta(platform, "run", "q", "--graph", "nope", "--docs", "docs")
    assert result.exit_code == 1
    assert "there is no graph 'nope'; there are: echo, hold, research_report" in result.stderr
    assert platform.documents == {}


@pytest.mark.parametrize(
    "arguments", [["run", "q", "--nope"], ["nope"], ["run", "q", "--max-questions", "0"]]
)
def test_wrong_usage_is_status_2(platform: PlatformDouble, arguments: list[str]):
    assert manta(platform, *arguments).exit_code == 2
