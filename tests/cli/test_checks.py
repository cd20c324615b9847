"""What `manta doctor` says of machines of several kinds."""

import json
import os
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from manta.cli import checks
from manta.cli.main import app
from manta.config import load_settings
from manta.errors import PlatformError
from manta.machine import GIB, available_memory
from manta.platform_process import PlatformInfo, check_memory
from tests.client.platform_double import PlatformDouble


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10), "fail"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "fail")]
)
def test_python(version: tuple[int, int], state: str):
    assert checks.check_python(version).state == state


@pytest.mark.parametrize(
    ("gib", "up", "state"), [(5, False, "ok"), (3.5, False, "warn"), (1, False, "fail"), (1, True, "ok")]
)
def test_memory(gib: float, up: bool, state: str):
    check = checks.check_memory(int(gib * GIB), up)
    assert check.state == state
    assert bool(check.fix) == (state != "ok")


def control_group(folder: Path, limit: str, current: int, file: int, shmem: int) -> int:
    (folder / "memory.max").write_text(limit)
    (folder / "memory.current").write_text(str(current))
    (folder / "memory.stat").write_text(f"anon 5\nfile {file}\nshmem {shmem}\n")
    return available_memory(folder)


def test_memory_is_the_control_groups_where_it_has_less(tmp_path: Path):
    # Of 900 bytes in use 300 are file pages, 100 of them shared memory: 200 can be given back.
    assert control_group(tmp_path, "1000", 900, 300, 100) == 300


def test_memory_is_the_machines_without_a_limit(tmp_path: Path):
    alone = available_memory(tmp_path / "none")
    assert alone > 0
    assert control_group(tmp_path, "max", 900, 300, 100) == pytest.approx(alone, rel=0.5)


def test_too_little_memory_is_refused():
    check_memory(3 * GIB)
    with pytest.raises(PlatformError, match=r"1\.0 GiB") as caught:
        check_memory(GIB)
    assert (caught.value.code, bool(caught.value.fix)) == ("not_enough_memory", True)


def test_a_home_that_is_a_file(tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert checks.check_home(tmp_path / "file").state == "fail"
    assert checks.check_home(tmp_path / "new" / "deep").state == "ok"


def test_a_port_in_use(tmp_path: Path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        settings = load_settings(None, {}, {"home": str(tmp_path), "server.port": holder.getsockname()[1]})
        check = checks.check_port(settings, platform_up=False)
        assert (check.state, f"process {os.getpid()}" in check.detail) == ("fail", True)
        assert checks.check_port(settings, platform_up=True).state == "ok"
    assert checks.check_port(settings, platform_up=False).state == "ok"


def test_a_gateway_for_others_needs_keys(tmp_path: Path):
    def check(host: str) -> checks.Check:
        return checks.check_keys(load_settings(None, {}, {"home": str(tmp_path), "server.host": host}))

    assert check("127.0.0.1").state == "skip"
    without = check("0.0.0.0")
    assert (without.state, "manta keys create" in without.fix) == ("fail", True)
    made = CliRunner().invoke(app, ["--home", str(tmp_path), "keys", "create", "ann"])
    assert made.exit_code == 0
    assert check("0.0.0.0").state == "ok"


def remote(tmp_path: Path, **model: object) -> object:
    overrides = {"home": str(tmp_path), "models": {"smollm2": model}, "embedder": {"source": "elsewhere"}}
    return checks.check_models(load_settings(None, {}, overrides))


def test_a_key_that_is_not_set(tmp_path: Path):
    check = remote(tmp_path, backend="remote", base_url="http://x", api_key_env="MANTA_NO_SUCH_KEY")
    assert (check.state, "MANTA_NO_SUCH_KEY" in check.fix) == ("fail", True)
    assert remote(tmp_path, backend="remote", base_url="http://x").state == "ok"


def test_a_model_file_that_is_not_there(tmp_path: Path):
    assert remote(tmp_path, backend="torch", source="nowhere.gguf").state == "fail"


def test_gpus_asked_for_and_not_there(tmp_path: Path):
    wanted = {"smollm2": {"replicas": {"num_gpus": 1}}}
    check = checks.check_gpu(load_settings(None, {}, {"models": wanted}))
    assert check.state in ("ok", "fail")
    if check.state == "fail":
        assert "num_gpus: 0" in check.fix
    assert checks.check_gpu(load_settings(None, {})).state in ("ok", "skip")


def test_the_platform_is_asked(platform: PlatformDouble):
    up = PlatformInfo(1, 1.0, platform.url)
    assert checks.check_platform(up).state == "ok"
    platform.ready = False
    assert "coordinator down" in checks.check_platform(up).detail
    assert checks.check_platform(PlatformInfo(1, 1.0, "http://127.0.0.1:9")).state == "fail"
    assert checks.check_platform(None).state == "skip"


def test_a_token_that_others_can_read(tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("t")
    token.chmod(0o644)
    up = PlatformInfo(1, 1.0, "", token_path=str(token))
    assert checks.check_token(up).fix == f"chmod 600 {token}"
    token.chmod(0o600)
    assert checks.check_token(up).state == "ok"
    assert checks.check_token(None).state == "skip"


def test_doctor_as_json_has_every_check_and_its_status(tmp_path: Path):
    result = CliRunner().invoke(app, ["--home", str(tmp_path), "doctor", "--json"])
    found = {check["name"]: check for check in json.loads(result.stdout)}
    wanted = "python packages memory home disk port keys sandbox models gpu platform token"
    assert list(found) == wanted.split()
    assert result.exit_code == (1 if any(c["state"] == "fail" for c in found.values()) else 0)
    assert all(c["fix"] for c in found.values() if c["state"] == "fail")
