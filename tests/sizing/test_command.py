"""`manta gpus` as it is called."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from manta.cli.main import app
from manta.sizing.calibration import Calibration, save


def manta_gpus(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--home", str(home), "gpus", *arguments])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def test_a_table_cheapest_first(tmp_path: Path):
    done = manta_gpus(tmp_path, "Llama-3.1-8B", "--rate", "5", "--price", "H100=2.5", "--price", "a100=90")
    assert done.exit_code == 0
    assert "llama-3.1-8b: 8.03 billion parameters, 14.96 GiB of weights in bf16" in done.stdout
    assert done.stdout.index("│ H100 ") < done.stdout.index("│ A100-80GB ") < done.stdout.index("│ L40S ")
    assert "T4: does not fit" not in done.stdout, "two of them hold it"


def test_json_has_the_plan_and_its_formulas(tmp_path: Path):
    done = manta_gpus(
        tmp_path, "llama-3.1-70b", "--gpu", "H100", "--gpu", "L4", "--tensor-parallel", "4", "--json"
    )
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    (plan,) = found["plans"]
    assert (plan["gpu"], plan["tensor_parallel"], plan["kv_bytes_per_token"]) == ("H100", 4, 327_680)
    assert any(line["name"] == "decode step" and line["source"] for line in plan["formulas"])
    assert found["misfits"][0]["gpu"] == "L4"
    assert found["misfits"][0]["missing_bytes"] > 50e9


def test_explain_shows_the_numbers(tmp_path: Path):
    done = manta_gpus(tmp_path, "llama-3.1-8b", "--gpu", "H100", "--explain")
    assert "2 x 32 x 8 x 128 x 16 / 8 = 131,072 bytes" in done.stdout
    assert "NVIDIA H100 data sheet, SXM" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gpt-9"], "unknown_model: no model 'gpt-9'"),
        (["--gpu", "H900"], "unknown_gpu"),
        (["--price", "H100"], "no price"),
        (["--gpu", "this-machine"], "not_calibrated"),
        (["llama-3.1-70b", "--gpu", "T4"], "nothing_fits: llama-3.1-70b fits on none of them; nearest is T4"),
        (["llama-3.1-8b", "--context", "999999"], "holds 131,072 tokens"),
    ],
)
def test_errors_are_one_line(arguments: list[str], words: str, tmp_path: Path):
    done = manta_gpus(tmp_path, *arguments)
    assert done.exit_code == 1
    assert words in done.stderr


def test_models_of_the_settings(tmp_path: Path):
    (tmp_path / "manta.yaml").write_text(
        "models:\n  small: {}\n  far: {backend: remote, base_url: 'http://127.0.0.1:1/v1'}\n"
    )
    assert "smollm2-135m" in manta_gpus(tmp_path, "small", "--gpu", "T4").stdout
    assert "runs elsewhere" in manta_gpus(tmp_path, "far").stderr


def test_this_machine_once_it_was_measured(tmp_path: Path):
    save(Calibration("x", 8e9, 10e9, ((1, 5e9), (16, 40e9))), tmp_path / "calibration.json")
    done = manta_gpus(tmp_path, "--dtype", "fp32", "--gpu", "this-machine", "--rate", "0.01", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["plans"][0]["gpu"] == "this-machine"
