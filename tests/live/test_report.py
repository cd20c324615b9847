"""The main job as a user runs it, on questions, folders and tables the code has not seen."""

import csv
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from agents.report import report_schema
from manta.client import Client
from tests.agents.unseen import SETS, UnseenSet
from tests.live.conftest import LivePlatform

MANTA = Path(sys.executable).parent / "manta"
PNG = b"\x89PNG\r\n\x1a\n"


def manta(platform: LivePlatform, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MANTA_HOME": str(platform.home), "COLUMNS": "200"}
    command = [MANTA, "--url", platform.url, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280)


@pytest.mark.parametrize("unseen", SETS, ids=lambda unseen: unseen.name)
def test_a_question_becomes_a_report_whose_parts_hold(
    platform: LivePlatform, tmp_path: Path, unseen: UnseenSet
):
    documents = tmp_path / "documents"
    documents.mkdir()
    for name, text in unseen.documents.items():
        (documents / name).write_text(text)
    (tmp_path / unseen.table_name).write_text(unseen.table)
    ran = manta(
        platform,
        "run",
        unseen.question,
        "--docs",
        "documents",
        "--data",
        unseen.table_name,
        "--out",
        "out",
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = json.loads((tmp_path / "out/report.json").read_text())
    jsonschema.Draft202012Validator(report_schema()).validate(report)

    citations = {citation["id"]: citation for citation in report["citations"]}
    for citation in citations.values():
        file = (documents / citation["document"]).read_text()
        assert file[citation["start"] : citation["end"]] == citation["text"]
    supported = [sentence for sentence in report["answer"] if sentence["citations"]]
    assert len(citations) >= 3
    assert len({citation["document"] for citation in citations.values()}) >= 2
    assert len(supported) >= 3
    assert all(set(sentence["citations"]) <= citations.keys() for sentence in supported)
    check_numbers(unseen, report)

    charts = [chart["name"] for analysis in report["analysis"] for chart in analysis["charts"]]
    assert charts
    assert all((tmp_path / "out" / name).read_bytes().startswith(PNG) for name in charts)
    markdown = (tmp_path / "out/report.md").read_text()
    assert all(f"({name})" in markdown for name in charts)


def check_numbers(unseen: UnseenSet, report: dict) -> None:
    """The group means again, from the table itself."""
    rows = list(csv.DictReader(unseen.table.splitlines()))
    outputs = [json.loads(analysis["output"]) for analysis in report["analysis"]]
    groups = next(output["groups"] for output in outputs if "groups" in output)
    for group in groups:
        values = [float(row[unseen.measure]) for row in rows if row[unseen.group] == group["label"]]
        assert group["mean"] == pytest.approx(statistics.mean(values), rel=1e-3, abs=0.01)
    computed = " ".join(s["text"] for s in report["answer"] if s["origin"] == "computed")
    assert unseen.expected in computed


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", ""], "empty_question"),
        (["run", "Why?", "--docs", "none"], ""),
        (["run", "Why?", "--data", "none.csv"], ""),
        (["run", "Why?", "--data", "noise.csv"], "unreadable_data"),
        (["run", "Why?", "--docs", "binaries"], ""),
        (["run", "--graph", "nope", "Why?"], "unknown_graph"),
        (["run", "--graph", "stranded", "anyone?"], "remote_model_error"),
        (["show", "00000000-0000-0000-0000-000000000000"], "not_found"),
    ],
)
def test_bad_input_is_one_line_with_the_fix(
    platform: LivePlatform, tmp_path: Path, arguments: list[str], code: str
):
    (tmp_path / "noise.csv").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "binaries").mkdir()
    (tmp_path / "binaries/a.md").write_bytes(bytes(range(256)) * 8)
    ran = manta(platform, *arguments, cwd=tmp_path)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    errors = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, ran.stderr
    assert f"error: {code}" in errors[0]
    assert errors[0].endswith(")"), "the fix is missing"
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "out").exists()


def test_a_web_question_says_plainly_that_there_is_no_web(platform: LivePlatform, tmp_path: Path):
    ran = manta(platform, "run", "What is new in SQLite?", cwd=tmp_path)
    if ran.returncode == 0:
        pytest.skip("this machine reaches the web")
    assert "search_unavailable" in ran.stderr
    assert "--docs" in ran.stderr
    assert not (tmp_path / "out").exists()


def test_runs_are_listed_and_shown(platform: LivePlatform, client: Client, tmp_path: Path):
    run = client.run("greet", {"names": ["x"]}).run
    listed = manta(platform, "runs", cwd=tmp_path)
    assert run.id[:8] in listed.stdout
    shown = manta(platform, "show", run.id, cwd=tmp_path)
    assert "greet[0]" in shown.stdout
    status = manta(platform, "status", cwd=tmp_path)
    assert status.returncode == 0, status.stderr
    assert "coordinator" in status.stdout
