"""`make demo` as it is: exit 0 only with a report, its peak memory said, and nothing left running."""

import json
import re
import subprocess
import sys
from pathlib import Path

import psutil

from tests.live.conftest import ROOT

LARGEST_PEAK_GIB = 3.5


def test_the_demo_makes_its_report_and_cleans_up(tmp_path: Path):
    command = [
        sys.executable,
        "-m",
        "examples.demo",
        "--out",
        str(tmp_path / "out"),
        "--home",
        str(tmp_path / "d"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert len(report["citations"]) >= 3
    assert (tmp_path / "out/report.md").stat().st_size > 1000
    assert list((tmp_path / "out").glob("*.png"))
    costs = next(json.loads(a["output"]) for a in report["analysis"] if "rows" in json.loads(a["output"]))
    # 50 requests/s are 180,000 an hour, at the prices per 1,000 of examples/data/gpu_options.csv.
    assert [(row["cost_low"], row["cost_high"]) for row in costs["rows"]] == [(9, 18), (27, 45), (90, 180)]
    assert [(row["instances_low"], row["instances_high"]) for row in costs["rows"]] == [
        (2, 3),
        (4, 5),
        (10, 25),
    ]
    assert report["usage"]["model_calls"] >= 2
    peak = re.search(r"Peak memory of the platform: ([\d.]+) GiB", done.stdout)
    assert peak
    assert 1 < float(peak.group(1)) <= LARGEST_PEAK_GIB
    left = [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
    assert not left


def test_a_demo_that_cannot_start_fails(tmp_path: Path):
    (tmp_path / "d").write_text("a file where the folder must be")
    command = [
        sys.executable,
        "-m",
        "examples.demo",
        "--out",
        str(tmp_path / "out"),
        "--home",
        str(tmp_path / "d"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert not (tmp_path / "out").exists()
