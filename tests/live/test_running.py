"""A platform that runs: there is one of it, and nobody else reads its token or reaches its ports."""

import stat
import subprocess
import sys
from pathlib import Path

import httpx
import psutil

from manta.platform_process import running, start
from tests.live.conftest import LivePlatform, free_port


def test_a_running_platform_is_attached_to(platform: LivePlatform):
    info = start(platform.settings, config=platform.config)
    assert info.pid == running(platform.home).pid


def test_a_second_platform_in_the_same_home_is_refused(platform: LivePlatform):
    command = [
        sys.executable,
        "-m",
        "serve_app",
        "up",
        "--config",
        str(platform.config),
        "--port",
        str(free_port()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "already_running" in done.stderr
    assert httpx.get(f"{platform.url}/readyz").status_code == 200


def test_the_token_is_private_and_the_dashboard_asks_for_it(platform: LivePlatform):
    info = running(platform.home)
    token = Path(info.token_path)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert info.dashboard.startswith("http://127.0.0.1:")
    assert httpx.get(f"{info.dashboard}/api/jobs/").status_code == 401
    headers = {"Authorization": f"Bearer {token.read_text()}"}
    assert httpx.get(f"{info.dashboard}/api/jobs/", headers=headers).status_code == 200


def test_ports_of_ray_are_on_loopback_or_ask_for_the_token(platform: LivePlatform):
    info = running(platform.home)
    listening = set()
    for process in [psutil.Process(info.pid), *psutil.Process(info.pid).children(recursive=True)]:
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and "ProxyActor" in " ".join(process.cmdline()):
                listening.add((connection.laddr.ip, connection.laddr.port))
    assert ("127.0.0.1", platform.settings.server.port) in listening
