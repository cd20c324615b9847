"""A page of another site reaches nothing on a loopback address, by whatever name it calls it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from manta.config import ModelSettings
from serve_app.backends.sleep import SleepBackend
from serve_app.gateway.guard import LOOPBACK_HOSTS, allowed_hosts
from tests.gateway.platform import Local, start


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1", "LOCALHOST:8000", "127.0.0.1:9", "[::1]", "[::1]:8000"]
)
async def test_our_own_names_pass_with_any_port(local: Local, host: str):
    await local.json("GET", "/healthz", headers={"Host": host})


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil",
        "",
        "localhost:x",
        "::1",
        "[",
    ],
)
@pytest.mark.parametrize("path", ["/healthz", "/runs/x", "/v1/models", "/", "/openapi.json"])
async def test_another_name_is_refused(local: Local, host: str, path: str):
    body = await local.json("GET", path, 400, headers={"Host": host})
    assert (body["error"] if path.startswith("/v1") else body)["code"] == "bad_host"


async def test_two_host_headers_are_refused(local: Local):
    headers = [("Host", "127.0.0.1"), ("Host", "evil.example")]
    assert (await local.json("GET", "/healthz", 400, headers=headers))["code"] == "bad_host"


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1.evil.example", "file://", ""]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/runs"),
        ("POST", "/files?name=a.csv"),
        ("POST", "/runs/x/cancel"),
        ("PUT", "/collections/c/documents/d"),
        ("DELETE", "/collections/c/documents/d"),
        ("POST", "/v1/chat/completions"),
    ],
)
async def test_another_sites_page_changes_nothing(local: Local, origin: str, method: str, path: str):
    body = await local.json(method, path, 403, headers={"Origin": origin}, content=b"x")
    assert (body["error"] if path.startswith("/v1") else body)["code"] == "bad_origin"
    assert local.coordinator.calls == []


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1:8000", "https://[::1]"])
async def test_a_page_of_this_machine_may_start_runs(local: Local, origin: str):
    await local.json("POST", "/runs", json={"agent_id": "echo"}, headers={"Origin": origin})


async def test_a_foreign_origin_may_ask_as_it_cannot_read_the_answer(local: Local):
    await local.json("GET", "/healthz", headers={"Origin": "http://evil.example"})


@pytest.fixture
async def open_to_all(tmp_path: Path) -> AsyncIterator[Local]:
    model = SleepBackend("m", ModelSettings(backend="sleep"))
    made, stop = await start(tmp_path, {"m": model}, allowed_hosts=allowed_hosts("0.0.0.0"))
    yield made
    await stop()


async def test_bound_elsewhere_the_name_is_not_looked_at(open_to_all: Local):
    headers = {"Host": "manta.internal", "Origin": "https://manta.internal"}
    await open_to_all.json("POST", "/runs", json={"agent_id": "echo"}, headers=headers)


@pytest.mark.parametrize(
    ("bound", "allowed"),
    [
        ("127.0.0.1", set(LOOPBACK_HOSTS)),
        ("localhost", set(LOOPBACK_HOSTS)),
        ("::1", set(LOOPBACK_HOSTS)),
        ("127.0.0.2", {"127.0.0.2", *LOOPBACK_HOSTS}),
        ("0.0.0.0", set()),
        ("10.0.0.7", set()),
        ("127.evil.example", set()),
        ("::", set()),
    ],
)
def test_hosts_follow_from_where_it_listens(bound: str, allowed: Any):
    assert set(allowed_hosts(bound)) == allowed
