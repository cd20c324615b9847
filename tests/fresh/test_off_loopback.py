"""A gateway that others reach, on a host of its own: a network namespace with an address beside loopback's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.live.conftest import ROOT, free_port, lean

ADDRESS = "10.77.0.1"
MANTA = Path(sys.executable).parent / "manta"


def has_namespaces() -> bool:
    try:
        return (
            subprocess.run(["unshare", "--net", "ip", "link"], capture_output=True, check=False).returncode
            == 0
        )
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not has_namespaces(), reason="needs root, unshare and ip for a network namespace")
def test_a_gateway_that_others_reach_has_keys(tmp_path: Path):
    inside = ["ip link set lo up", f"ip addr add {ADDRESS}/32 dev lo"]
    play = f"{sys.executable} -m tests.fresh.test_off_loopback {tmp_path}"
    command = ["unshare", "--net", "bash", "-c", " && ".join([*inside, play])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["refused"].startswith("error: keys_needed")
    assert "manta keys create" in told["refused"]
    assert told["health"] == 200
    assert told["models"] == {"none": 401, "wrong": 401, "chat": 200, "full": 200}
    assert told["graphs"] == {"none": 401, "wrong": 401, "chat": 403, "full": 200}
    assert told["chat"] == {"none": 401, "wrong": 401, "chat": 200, "full": 200}
    assert told["loopback"] == 401
    assert told["revoked"] == 401


def main(folder: Path) -> None:
    """In the namespace: what the gateway answers to whom."""
    config = folder / "manta.yaml"
    settings = lean({"models": {"m": {"backend": "sleep", "replicas": {"num_cpus": 0.05}}}})
    server = {"host": "0.0.0.0", "port": free_port()}
    config.write_text(yaml.safe_dump({"home": str(folder / "home"), "server": server, **settings}))

    def manta(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [MANTA, "--config", str(config), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)

    told: dict[str, Any] = {"refused": manta("up").stderr}
    keys = {"wrong": "mk_0123456789abcdef_" + "x" * 43}
    keys["full"] = manta("keys", "create", "ann").stdout.strip()
    keys["chat"] = manta("keys", "create", "bot", "--scope", "chat").stdout.strip()
    up = manta("up")
    assert up.returncode == 0, up.stdout + up.stderr
    try:
        told |= asked(f"http://{ADDRESS}:{server['port']}", {"none": "", **keys})
        told["loopback"] = httpx.get(f"http://127.0.0.1:{server['port']}/v1/models", timeout=60).status_code
        manta("keys", "revoke", keys["chat"].split("_")[1])
        told["revoked"] = until_refused(f"http://{ADDRESS}:{server['port']}/v1/models", keys["chat"])
    finally:
        down = manta("down")
    assert down.returncode == 0, down.stdout + down.stderr
    print(json.dumps(told))


def asked(url: str, keys: dict[str, str]) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    told: dict[str, Any] = {"models": {}, "graphs": {}, "chat": {}}
    with httpx.Client(base_url=url, timeout=60) as client:
        told["health"] = client.get("/healthz").status_code
        for name, key in keys.items():
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            told["models"][name] = client.get("/v1/models", headers=headers).status_code
            told["graphs"][name] = client.get("/graphs", headers=headers).status_code
            answer = client.post("/v1/chat/completions", json=body, headers=headers)
            told["chat"][name] = answer.status_code
    return told


def until_refused(url: str, key: str) -> int:
    from tests.live.conftest import eventually

    def refused() -> int:
        status = httpx.get(url, headers={"Authorization": f"Bearer {key}"}, timeout=60).status_code
        return status if status != 200 else 0

    return int(str(eventually(refused, "the revoked key being refused", 60)))


if __name__ == "__main__":
    os.environ.pop("MANTA_API_KEY", None)
    main(Path(sys.argv[1]))
