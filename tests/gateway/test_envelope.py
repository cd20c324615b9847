"""What every answer carries, what a server lets pass of malformed requests, and pages of other sites."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from manta.config import ServerSettings
from serve_app.gateway.guard import allowed_hosts
from tests.gateway.keys_support import Guarded, guarded
from tests.gateway.openai_support import SaysChunks, text
from tests.gateway.platform import Local
from tests.gateway.serving import served

APP = "https://app.example"
SAYS = SaysChunks(*text("hello"))


class Broken(SaysChunks):
    async def info(self) -> Any:
        raise RuntimeError("a defect at 0x7f00")

    def stream(self, request: Any) -> Any:
        raise RuntimeError("a defect at 0x7f00")


@pytest.fixture
async def abroad(tmp_path: Path) -> AsyncIterator[Guarded]:
    """Bound to an address that others reach, with a web page that may come."""
    hosts = allowed_hosts("0.0.0.0")
    models = {"says": SAYS, "broken": Broken()}
    async with guarded(tmp_path, models, allowed_hosts=hosts, cors_origins=(APP,)) as made:
        yield made


async def test_every_answer_has_an_id_of_its_own(abroad: Guarded):
    key = await abroad.key()
    seen = set()
    for who, method, path, status, body in (
        (None, "GET", "/healthz", 200, None),
        (None, "GET", "/graphs", 401, None),
        (key, "GET", "/graphs", 200, None),
        (key, "GET", "/nowhere", 403, None),
        (key, "PUT", "/runs", 405, {}),
        (key, "POST", "/v1/chat/completions", 500, {"model": "broken", "messages": [{"role": "user", "content": "x"}]}),
    ):  # fmt: skip
        answer = await abroad.ask(who, method, path, **({"json": body} if body is not None else {}))
        assert answer.status_code == status
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert "0x7f00" not in answer.text
        seen.add(answer.headers["x-request-id"])
    assert len(seen) == 6


@pytest.mark.parametrize("given", ["abc-1.2:x_Y", "a" * 128])
async def test_a_callers_own_id_comes_back(local: Local, given: str):
    answer = await local.http.get("/healthz", headers={"X-Request-Id": given})
    assert answer.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "a" * 129, "<script>", "a\tb", b"\xff", "%0d%0aSet-Cookie:x"])
async def test_a_hostile_id_is_replaced(local: Local, given: Any):
    answer = await local.http.get("/healthz", headers={"X-Request-Id": given})
    assert answer.headers.get_list("x-request-id") == [answer.headers["x-request-id"]]
    assert len(answer.headers["x-request-id"]) == 32
    twice = await local.http.get("/healthz", headers=[("X-Request-Id", "a"), ("X-Request-Id", "b")])
    assert len(twice.headers["x-request-id"]) == 32


async def test_a_page_frames_nothing_and_is_framed_by_nobody(local: Local):
    answer = await local.http.get("/")
    assert "script-src 'unsafe-inline'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("host", ["a/?x=", "h/#", "h?x", "a b", "a@b", "[::1", ""])
@pytest.mark.parametrize("path", ["/graphs", "/v1/models"])
async def test_a_host_that_is_none_is_refused_wherever_the_gateway_is_bound(
    abroad: Guarded, host: str, path: str
):
    for key in (None, await abroad.key(f"{host} {path}")):
        answer = await abroad.ask(key, "GET", path, headers={"Host": host})
        assert answer.status_code == 400
    headers = [("Host", "manta.example"), ("Host", "manta.example")]
    assert (await abroad.local.http.get(path, headers=headers)).status_code == 400


async def test_large_headers_are_refused(abroad: Guarded):
    key = await abroad.key()
    fits = await abroad.ask(key, "GET", "/graphs", headers={"X-Much": "x" * 15_000})
    assert fits.status_code == 200
    answer = await abroad.ask(key, "GET", "/graphs", headers={"X-Much": "x" * 17_000})
    assert (answer.status_code, answer.json()["code"]) == (431, "headers_too_large")
    many = [(f"X-{n}", "x" * 20) for n in range(1000)]
    assert (await abroad.local.http.get("/graphs", headers=many)).status_code == 431


async def test_a_page_that_may_come_is_told_so_also_when_it_is_refused(abroad: Guarded):
    key = await abroad.key()
    asks = {"Origin": APP, "Access-Control-Request-Method": "POST"}
    asks["Access-Control-Request-Headers"] = "authorization,content-type"
    preflight = await abroad.ask(None, "OPTIONS", "/v1/chat/completions", headers=asks)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == APP
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    for who, status in ((key, 200), (None, 401)):
        answer = await abroad.ask(who, "GET", "/graphs", headers={"Origin": APP})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, APP)
        assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
    other = await abroad.ask(key, "GET", "/graphs", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


async def test_no_other_page_may_come_unless_it_is_named(local: Local):
    asks = {"Origin": APP, "Access-Control-Request-Method": "POST"}
    answer = await local.http.options("/v1/chat/completions", headers=asks)
    assert "access-control-allow-origin" not in answer.headers


async def test_a_named_page_may_change_things_on_loopback(tmp_path: Path):
    async with guarded(tmp_path, {"says": SAYS}, keys_always=False, cors_origins=(APP,)) as gate:
        for origin, status in ((APP, 200), ("https://evil.example", 403)):
            body = {"agent_id": "echo"}
            answer = await gate.ask(None, "POST", "/runs", json=body, headers={"Origin": origin})
            assert answer.status_code == status


@pytest.mark.parametrize("origin", ["*", "app.example", "https://app.example/", "https://*.example", "null"])
def test_what_is_no_origin_is_no_setting(origin: str):
    with pytest.raises(ValueError, match="cors_origins"):
        ServerSettings(cors_origins=(origin,))


HEAD = b"GET /graphs HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /runs/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
        (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x", {400}),
        (HEAD + b"X-Folded: a\r\n b\r\n\r\n", {200, 400}),
        (HEAD + b"X-Much: " + b"x" * 20_000 + b"\r\n\r\n", {431}),
        (HEAD + b"X-Much: " + b"x" * 200_000 + b"\r\n\r\n", {400, 431}),
        (b"GET /graphs HTTP/1.1\r\n\r\n", {400}),
        (b"GET http://evil.example/graphs HTTP/1.1\r\nHost: evil.example\r\n\r\n", {400}),
        (b"GET /graphs HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: 127.0.0.1\r\n\r\n", {400}),
        (b"nonsense\r\n\r\n", {400}),
    ],
)
async def test_malformed_requests_to_a_server(local: Local, sent: bytes, statuses: set[int]):
    async with served(local) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(sent)
        line = await reader.readline()
        writer.close()
    assert int(line.split()[1]) in statuses, line


async def test_a_websocket_is_told_its_id(local: Local):
    thread = (await local.json("POST", "/threads", json={}))["thread_id"]
    async with served(local) as url:
        address = f"{url.replace('http', 'ws')}/threads/{thread}/stream"
        async with connect(address, additional_headers={"X-Request-Id": "mine"}) as socket:
            assert socket.response is not None
            assert socket.response.headers["x-request-id"] == "mine"
