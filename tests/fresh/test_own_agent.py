"""The example of a user's own agent, tool and graph, run as its README says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

from tests.live.conftest import ROOT, free_port

MANTA = Path(sys.executable).parent / "manta"


def manta(*arguments: str, cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MANTA, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=280
    )


def test_the_example_runs_as_its_readme_says(tmp_path: Path):
    example = ROOT / "examples/own_agent"
    environment = {**os.environ, "MANTA_HOME": str(tmp_path / "home"), "MANTA_PORT": str(free_port())}
    asked = '{"topics": ["a bakery", "a night train"]}'
    try:
        up = manta("up", cwd=example, environment=environment)
        assert up.returncode == 0, up.stdout + up.stderr
        ran = manta(
            "run",
            "--graph",
            "slogans",
            "--input",
            asked,
            "--out",
            str(tmp_path / "out"),
            cwd=example,
            environment=environment,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
    finally:
        down = manta("down", cwd=example, environment=environment)
    assert down.returncode == 0, down.stdout + down.stderr
    assert not [
        p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])
    ]
    output = json.loads((tmp_path / "out/output.json").read_text())
    assert [slogan["topic"] for slogan in output["slogans"]] == ["a bakery", "a night train"]
    words = " ".join(slogan["slogan"] for slogan in output["slogans"]).split()
    assert (
        output["words"]["output"] == len(words)
        if isinstance(output["words"], dict)
        else output["words"] == len(words)
    )
    assert len(words) > 3


def test_the_example_is_twenty_lines_or_so():
    code = (ROOT / "examples/own_agent/my_agents.py").read_text().splitlines()
    assert len([line for line in code if line.strip()]) <= 22
