"""Models where keys are asked for: who may change them, who may start programs by them, who sees what."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gateway.keys_support import Guarded, guarded
from tests.gateway.openai_support import SaysChunks, text
from tests.gateway.test_model_routes import SLEEP, declare

VENDOR = {"backend": "remote", "base_url": "https://api.example.com/v1"}
PROGRAM = {"backend": "server", "launch": {"command": ["sh", "{port}"]}}
FOR_ADMINS = {
    "launch.command": PROGRAM,
    "launch.args": {"backend": "server", "launch": {"preset": "vllm", "args": ["--trust-remote-code"]}},
    "launch.env": {"backend": "server", "launch": {"preset": "vllm", "env": {"LD_PRELOAD": "x.so"}}},
    "api_key_env": {**VENDOR, "api_key_env": "OPENAI_API_KEY"},
    "base_url": {"backend": "langchain", "source": "openai:gpt", "base_url": "https://evil.example"},
    "base_url ": VENDOR,
    "source": {"backend": "server", "launch": {"preset": "vllm"}, "source": "--config=/tmp/x"},
}


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[Guarded]:
    async with guarded(tmp_path, {"says": SaysChunks(*text("hello"))}) as made:
        await declare(made.local, says=SLEEP)
        yield made


async def test_who_may_read_write_and_start_programs(gate: Guarded):
    reader, writer = await gate.key("reader", "runs:read"), await gate.key("writer", "models:write")
    admin = await gate.key("boss", "admin")
    assert (await gate.ask(None, "GET", "/models")).status_code == 401
    assert (await gate.ask(reader, "GET", "/models/says")).status_code == 200
    for method, path in (("POST", "says/promote"), ("PATCH", "says/replicas"), ("DELETE", "says")):
        refused = await gate.ask(reader, method, f"/models/{path}", json={})
        assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
    for number, (field, settings) in enumerate(FOR_ADMINS.items()):
        path, body = f"/models/m{number}/versions", {"settings": settings}
        refused = await gate.ask(writer, "POST", path, json=body)
        assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
        assert f"settings.{field.strip()} " in refused.json()["message"]
        assert (await gate.ask(admin, "POST", path, json=body)).status_code == 200, field
    added = await gate.ask(writer, "POST", "/models/plain/versions", json={"settings": SLEEP})
    assert (added.status_code, added.json()["created_by"]) == (200, "writer")


async def test_what_may_be_a_secret_is_shown_to_admins_alone(gate: Guarded):
    writer, admin = await gate.key("writer", "models:write"), await gate.key("boss", "admin")
    launch = {"preset": "vllm", "args": ["--api-key", "s3cret"], "env": {"HF_TOKEN": "s3cret"}}
    settings = {"backend": "server", "launch": launch, "base_url": "https://me:s3@cret@example.com:8443/v1"}
    await gate.ask(admin, "POST", "/models/big/versions", json={"settings": settings})
    shown = await gate.ask(writer, "GET", "/models/big")
    assert "s3cret" not in shown.text
    assert "cret@" not in shown.text
    told = shown.json()["versions"][0]["settings"]
    assert (told["launch"]["env"], told["base_url"]) == (
        {"HF_TOKEN": "***"},
        "https://example.com:8443/v1",
    )
    assert (await gate.ask(admin, "GET", "/models/big")).text.count("s3cret") == 2
