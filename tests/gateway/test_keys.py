"""Who comes in: keys that hold, scopes, tenants; one answer to all that is no key."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from coordinator.store.key_records import Scope
from manta.errors import CoordinatorUnavailable
from serve_app.gateway.access.keyring import STALE_S
from serve_app.gateway.access.scopes import allows, needed
from tests.gateway.keys_support import Guarded, guarded
from tests.gateway.openai_support import SaysChunks, client, text
from tests.gateway.platform import Local
from tests.gateway.serving import served

SAYS = SaysChunks(*text("hello"))


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[Guarded]:
    async with guarded(tmp_path, {"says": SAYS}) as made:
        yield made


WRONG = [
    None,
    "",
    "Bearer",
    "Bearer ",
    "Basic bWs6eA==",
    "Bearer mk_",
    "Bearer mk_0123456789abcdef_" + "A" * 43,
    "Bearer ' OR pg_sleep(8)--",
    "Bearer " + "x" * 10_000,
    "Bearer mk_ключ".encode(),
    b"Bearer \xff\xfe",
    "Bearer none",
]


async def test_all_that_is_no_key_is_answered_alike(gate: Guarded):
    revoked = await gate.key("gone")
    await gate.local.service.journal.keys.revoke(revoked.record.id)
    expired = await gate.key("late")
    await gate.local.service.journal.keys.expire(expired.record.id, 1.0)
    good = await gate.key()
    near = good.text[:-1] + ("A" if good.text[-1] != "A" else "B")
    shown = [*WRONG, *(f"Bearer {text}" for text in (revoked.text, expired.text, near, f"{good.text} x"))]
    for path, code in (("/runs/search", "code"), ("/v1/chat/completions", "error"), ("/nowhere", "code")):
        seen = set()
        for value in shown:
            headers: Any = {} if value is None else {"Authorization": value}
            answer = await gate.local.http.post(path, json={}, headers=headers)
            assert answer.headers["www-authenticate"] == "Bearer"
            seen.add((answer.status_code, answer.text))
        assert len(seen) == 1
        ((status, body),) = seen
        assert status == 401
        assert "invalid_api_key" in body
        assert f'"{code}":' in body


async def test_two_headers_are_no_key(gate: Guarded):
    good = (await gate.key()).text
    headers = [("Authorization", f"Bearer {good}"), ("Authorization", f"Bearer {good}")]
    assert (await gate.local.http.get("/graphs", headers=headers)).status_code == 401
    assert (await gate.local.http.get("/graphs", headers=headers[:1])).status_code == 200


async def test_health_and_the_page_need_no_key(gate: Guarded):
    for path in ("/healthz", "/health", "/readyz", "/"):
        assert (await gate.ask(None, "GET", path)).status_code == 200
    for path in ("/openapi.json", "/graphs", "/v1/models", "/files/" + "0" * 64):
        assert (await gate.ask(None, "GET", path)).status_code == 401


async def test_openais_own_client_comes_in_with_a_key_and_not_without(gate: Guarded):
    key = await gate.key()
    answer = (
        await client(gate.local)
        .with_options(api_key=key.text)
        .chat.completions.create(model="says", messages=[{"role": "user", "content": "x"}])
    )
    assert answer.choices[0].message.content == "hello"
    with pytest.raises(openai.AuthenticationError) as refused:
        await client(gate.local).models.list()
    assert refused.value.code == "invalid_api_key"


ASKED: list[tuple[str, str, Any]] = [
    ("runs:read", "GET", f"/runs/{uuid.uuid4()}"),
    ("runs:read", "POST", "/runs/search"),
    ("runs:read", "GET", "/graphs"),
    ("runs:read", "GET", "/collections"),
    ("runs:read", "POST", "/store/items/search"),
    ("runs:write", "POST", "/runs"),
    ("runs:write", "POST", "/threads"),
    ("runs:write", "PUT", "/store/items"),
    ("runs:write", "DELETE", f"/runs/{uuid.uuid4()}"),
    ("runs:write", "POST", "/files?name=a"),
    ("chat", "POST", "/v1/chat/completions"),
    ("chat", "POST", "/v1/embeddings"),
    ("models:write", "POST", "/models"),
    ("admin", "GET", "/nowhere"),
]


@pytest.mark.parametrize("scope", ["runs:read", "runs:write", "chat", "models:write", "admin"])
async def test_a_key_does_what_its_scopes_say(gate: Guarded, scope: Scope):
    key = await gate.key("ann", scope)
    for needs, method, path in ASKED:
        answer = await gate.ask(key, method, path, **({} if method in ("GET", "DELETE") else {"json": {}}))
        if scope in (needs, "admin"):
            assert answer.status_code not in (401, 403), (needs, method, path)
            continue
        assert answer.status_code == 403, (needs, method, path)
        body = answer.json()
        assert (body["error"] if path.startswith("/v1") else body)["code"] == "insufficient_scope"


async def test_a_graph_behind_openais_api_is_a_run_and_needs_its_scope(gate: Guarded):
    only_chat, both = await gate.key("a", "chat"), await gate.key("b", "chat", "runs:write")
    refused = await gate.chat(only_chat, model="manta/chat")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_scope")
    assert (await gate.chat(both, model="manta/chat")).status_code == 200
    assert (await gate.chat(only_chat, model="says")).status_code == 200


def test_every_route_has_a_scope_of_its_own(local: Local):
    admins = {
        f"{method} {path}"
        for path, operations in local.api.openapi()["paths"].items()
        for method in operations
        if needed(method.upper(), path) == "admin"
    }
    assert admins == set()


@pytest.mark.parametrize(
    "path", ["//runs", "/Runs", "/runs\n", "/./runs", "/v1x", "/healthz/", "/readyz\0", "/models\r"]
)
def test_a_path_that_is_nearly_one_is_for_admins(path: str):
    assert needed("GET", path) == "admin"
    assert not allows(frozenset({"runs:read", "runs:write", "chat", "models:write"}), "admin")


async def test_keys_see_their_own_tenant(gate: Guarded):
    ann, eve = await gate.key("ann"), await gate.key("eve", tenant="globex")
    run = (await gate.ask(ann, "POST", "/runs", json={"agent_id": "echo"})).json()["run_id"]
    assert (await gate.ask(ann, "GET", f"/runs/{run}/wait")).status_code == 200
    theirs = await gate.ask(eve, "GET", f"/runs/{run}")
    never = await gate.ask(eve, "GET", f"/runs/{uuid.uuid4()}")
    assert (theirs.status_code, theirs.text) == (404, never.text)
    assert (await gate.ask(eve, "POST", "/runs/search", json={})).json() == []
    record = await gate.local.service.journal.get_run(ann.record.tenant, run)
    assert record.principal == "ann"


async def test_a_key_costs_the_journal_one_trip_in_a_while(gate: Guarded):
    key = await gate.key()
    calls = gate.local.coordinator.calls
    await asyncio.gather(*(gate.ask(key, "GET", "/openapi.json") for _ in range(20)))
    assert calls.count("library") == 1
    for _ in range(5):
        await gate.ask("mk_0123456789abcdef_" + "A" * 43, "GET", "/openapi.json")
        await gate.ask("nothing like a key", "GET", "/openapi.json")
    assert calls.count("library") == 2


async def test_a_revoked_key_is_out_within_seconds(gate: Guarded):
    key = await gate.key()
    assert (await gate.ask(key, "GET", "/graphs")).status_code == 200
    await gate.local.service.journal.keys.revoke(key.record.id)
    await gate.later()
    assert (await gate.ask(key, "GET", "/graphs")).status_code == 401


async def test_a_turned_key_holds_with_both_secrets_for_a_while(gate: Guarded):
    old = await gate.key()
    new = await gate.local.service.journal.keys.rotate(old.record.id, 60)
    for key in (old, new):
        assert (await gate.ask(key, "GET", "/graphs")).status_code == 200
    await gate.clock.advance(61)
    assert (await gate.ask(old, "GET", "/graphs")).status_code == 401
    assert (await gate.ask(new, "GET", "/graphs")).status_code == 200


async def test_known_keys_hold_on_while_no_coordinator_answers(gate: Guarded):
    known, unknown = await gate.key("known"), await gate.key("unknown")
    assert (await gate.chat(known)).status_code == 200
    gate.local.coordinator.away |= {"library"}
    gate.local.coordinator.trouble = CoordinatorUnavailable("it restarts")
    await gate.later()
    assert (await gate.chat(known)).status_code == 200
    refused = await gate.chat(unknown)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "coordinator_unavailable")
    assert int(refused.headers["retry-after"]) > 0
    await gate.clock.advance(STALE_S)
    assert (await gate.chat(known)).status_code == 503


async def test_on_loopback_the_first_key_closes_the_gate(tmp_path: Path):
    async with guarded(tmp_path, {"says": SAYS}, keys_always=False) as gate:
        assert (await gate.ask(None, "GET", "/graphs")).status_code == 200
        assert (await gate.ask("whatever", "GET", "/graphs")).status_code == 200
        key = await gate.key()
        await gate.later()
        assert (await gate.ask(None, "GET", "/graphs")).status_code == 401
        assert (await gate.ask(key, "GET", "/graphs")).status_code == 200
        await gate.local.service.journal.keys.revoke(key.record.id)
        await gate.later()
        # A key that leaked and was revoked does not open the gate to everybody.
        assert (await gate.ask(None, "GET", "/graphs")).status_code == 401
        await gate.local.service.journal.keys.forget(key.record.id)
        await gate.later()
        assert (await gate.ask(None, "GET", "/graphs")).status_code == 200


async def test_a_websocket_needs_a_key_too(gate: Guarded):
    reader, writer = await gate.key("r", "runs:read"), await gate.key("w", "runs:write")
    thread = (await gate.ask(writer, "POST", "/threads", json={})).json()["thread_id"]
    async with served(gate.local) as url:
        address = f"{url.replace('http', 'ws')}/threads/{thread}/stream"
        for key, status in ((None, 401), (reader, 403)):
            headers = {"Authorization": f"Bearer {key.text}"} if key else {}
            with pytest.raises(InvalidStatus) as refused:
                async with connect(address, additional_headers=headers):
                    pass
            assert refused.value.response.status_code == status
            assert b'"code"' in (refused.value.response.body or b"")
        async with connect(address, additional_headers={"Authorization": f"Bearer {writer.text}"}) as socket:
            await socket.send(
                '{"id": 1, "method": "subscription.subscribe", "params": {"channels": ["values"]}}'
            )
            assert '"success"' in str(await socket.recv())


async def test_use_is_told_to_the_journal(gate: Guarded):
    key = await gate.key()
    for _ in range(3):
        assert (await gate.chat(key, model="says")).status_code == 200
    await gate.told(key, lambda usage: usage[0].requests >= 3)
    today, month = await gate.local.service.journal.keys.usage(key.record.tenant, "ann")
    assert today == month
    assert (today.requests, today.spent.tokens) == (3, 15)
    used = (await gate.local.service.journal.keys.get(key.record.id)).last_used_at
    assert used is not None
