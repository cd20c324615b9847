"""The cluster launcher's file: accepted by Ray's own checks, pinned, and free of what would bite on a plain machine."""

import copy
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import hash_runtime_conf, prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from manta.config import child_environment, load_settings

ROOT = Path(__file__).resolve().parents[2]
RAY = "2.60.0"


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return loaded


def test_ray_accepts_it(config: dict[str, Any]):
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    # Nothing of Ray's defaults, which install another Ray, is left in it.
    assert "ray-wheels" not in json.dumps(prepared)
    assert prepared["setup_commands"] == config["setup_commands"]
    assert prepared["head_start_ray_commands"] == config["head_start_ray_commands"]


def test_ray_refuses_it_with_a_field_it_does_not_know(config: dict[str, Any]):
    with pytest.raises(Exception, match="autoscaling_mode"):
        validate_config(prepare_config({**copy.deepcopy(config), "autoscaling_mode": "default"}))


def test_the_head_has_no_gpu_and_gpu_workers_start_at_none(config: dict[str, Any]):
    types = config["available_node_types"]
    assert "GPU" not in types[config["head_node_type"]]["resources"]
    assert types["gpu"]["resources"]["GPU"] == 1
    assert types["gpu"]["min_workers"] == 0
    assert types["gpu"]["max_workers"] >= 1


def test_every_mounted_path_is_there_and_can_be_hashed(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(ROOT)
    mounts = config["file_mounts"]
    assert [path for path in mounts.values() if not Path(path).exists()] == []
    assert all(remote == f"~/manta/{local}" for remote, local in mounts.items())
    assert hash_runtime_conf(mounts, [], {})[0]


def test_one_ray_version_everywhere(config: dict[str, Any]):
    assert f"ray=={RAY}\n" in (ROOT / "constraints.txt").read_text()
    text = (ROOT / "cluster.yaml").read_text()
    assert set(re.findall(r"\b2\.\d\d\.\d+\b", text)) == {RAY}
    kube = (ROOT / "deploy/kuberay/rayservice.yaml").read_text()
    assert yaml.safe_load(kube)["spec"]["rayClusterConfig"]["rayVersion"] == RAY
    assert f"rayproject/ray:{RAY}-" in (ROOT / "deploy/kuberay/Dockerfile").read_text()


def test_the_head_start_commands_touch_nothing_but_their_own_ray(config: dict[str, Any]):
    commands = "\n".join(config["head_start_ray_commands"])
    for forbidden in ("ray stop", "sudo", "169.254.169.254", "pkill", "killall", "0.0.0.0"):
        assert forbidden not in commands
    assert "--dashboard-host=127.0.0.1" in commands
    assert "RAY_AUTH_MODE=token" in commands
    assert "--disable-usage-stats" in commands


COMMANDS = ["setup_commands", "head_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"]


@pytest.mark.parametrize("field", COMMANDS)
def test_commands_are_bash(config: dict[str, Any], field: str):
    assert config[field]
    for command in config[field]:
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_scripts_are_bash():
    for script in ("deploy/start_platform.sh", ".ci/run"):
        subprocess.run(["bash", "-n", str(ROOT / script)], check=True)
        assert os.access(ROOT / script, os.X_OK)


def test_the_token_is_made_once_and_only_its_owner_may_read_it(config: dict[str, Any], tmp_path: Path):
    command = config["head_start_ray_commands"][0]
    tokens = []
    for _ in range(2):
        subprocess.run(["bash", "-c", command], check=True, env=child_environment(HOME=str(tmp_path)))
        file = tmp_path / ".ray" / "auth_token"
        tokens.append(file.read_text())
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert tokens[0] == tokens[1]
    assert re.fullmatch(r"[0-9a-f]{64}", tokens[0])
    assert config["cluster_synced_files"] == ["~/.ray/auth_token"]


def test_a_platform_that_cannot_start_says_why_and_fails(tmp_path: Path):
    missing = {"HOME": str(tmp_path), "MANTA_CONFIG": str(tmp_path / "missing.yaml")}
    # As the commands find it on a node: the environment's Python first on the PATH.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    start = ["bash", str(ROOT / "deploy" / "start_platform.sh")]
    result = subprocess.run(
        start, env=child_environment(PATH=path, **missing), capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "missing.yaml" in result.stderr
    assert "did not start" in result.stderr


def test_the_platforms_settings_are_valid():
    settings = load_settings(ROOT / "deploy" / "manta.cluster.yaml", environment={})
    assert settings.server.host == "127.0.0.1"


def test_serve_accepts_the_kubernetes_application():
    service = yaml.safe_load((ROOT / "deploy/kuberay/rayservice.yaml").read_text())
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    schema = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    (application,) = schema.applications
    module, builder = application.import_path.split(":")
    assert f"def {builder}(" in (ROOT / f"{module.replace('.', '/')}.py").read_text()
    cluster = service["spec"]["rayClusterConfig"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["workerGroupSpecs"][0]["minReplicas"] == 0


def test_monitoring_files_fit_each_other():
    deploy = ROOT / "deploy"
    source = yaml.safe_load((deploy / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    dashboard = json.loads((deploy / "grafana/dashboards/manta.json").read_text())
    uids = {panel["datasource"]["uid"] for panel in dashboard["panels"]}
    assert uids == {source["datasources"][0]["uid"]}
    assert yaml.safe_load((deploy / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert "make check" in [hook["entry"] for hook in hooks]
