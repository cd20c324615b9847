"""Files for batches: what is a form and what is none, and a file is its tenant's alone."""

from pathlib import Path
from typing import Any

import openai
import pytest

from tests.gateway.keys_support import guarded
from tests.gateway.openai_support import SaysChunks, client, text
from tests.gateway.platform import Local

PATH = "/v1/files"
HEAD = 'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'


WRONG: list[bytes] = [
    b"",
    b"--b",
    b"--b\r\n" + HEAD.encode() + b"x",
    b"--b\r\n\r\nx\r\n--b--",
    b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--",
    b"--b\r\n\xff: x\r\n\r\nx\r\n--b--",
    b"--bx\r\n" + HEAD.encode() + b"x\r\n--b--",
    b"--b" + b" " * 10_000,
    b"--b\r\nx: " + b"y" * 10_000,
    (b"--b\r\n" + HEAD.encode() + b"x\r\n") * 50 + b"--b--",
]


@pytest.mark.parametrize("number", range(len(WRONG)))
async def test_what_is_no_form_is_refused(said, number: int):
    headers = {"content-type": "multipart/form-data; boundary=b"}
    await said[0].json("POST", PATH, 400, content=WRONG[number], headers=headers)


@pytest.mark.parametrize("kind", ["", "text/plain", "multipart/form-data", "multipart/mixed; boundary=b"])
async def test_what_is_not_declared_as_a_form_is_refused(said, kind: str):
    await said[0].json("POST", PATH, 415, content=b"--b--", headers={"content-type": kind})


async def upload(local: Local, content: bytes = b"{}\n", status: int = 200, **fields: Any) -> Any:
    files = {"file": ("requests.jsonl", content)}
    return await local.json("POST", PATH, status, files=files, data={"purpose": "batch", **fields})


async def test_a_file_is_kept_told_listed_and_deleted(said):
    api = client(said[0])
    content = b'{"custom_id": "a"}\n' * 10_000
    made = await api.files.create(file=("requests.jsonl", content), purpose="batch")
    assert (made.bytes, made.filename, made.purpose) == (len(content), "requests.jsonl", "batch")
    assert await api.files.retrieve(made.id) == made
    assert (await api.files.content(made.id)).content == content
    other = await api.files.create(file=("other.jsonl", b"x"), purpose="batch")
    assert {file.id async for file in api.files.list()} == {made.id, other.id}
    first = await said[0].json("GET", f"{PATH}?limit=1&order=asc")
    assert first["has_more"] is True
    rest = await said[0].json("GET", f"{PATH}?limit=1&order=asc&after={first['last_id']}")
    assert {first["first_id"], rest["first_id"]} == {made.id, other.id}
    assert (await api.files.delete(made.id)).deleted
    for call in (api.files.retrieve, api.files.content, api.files.delete):
        with pytest.raises(openai.NotFoundError):
            await call(made.id)


async def test_a_repeated_upload_is_one_file(said):
    files = {"file": ("requests.jsonl", b"{}")}
    for _ in range(2):
        headers = {"Idempotency-Key": "once"}
        await said[0].json("POST", PATH, files=files, data={"purpose": "batch"}, headers=headers)
    (kept,) = (await said[0].json("GET", PATH))["data"]
    for other in (("requests.jsonl", b"[]"), ("others.jsonl", b"{}")):
        refused = await said[0].json(
            "POST", PATH, 422, files={"file": other}, data={"purpose": "batch"}, headers=headers
        )
        assert refused["error"]["code"] == "idempotency_conflict"
    assert (await said[0].json("GET", PATH))["data"] == [kept]


async def test_what_is_no_file_for_a_batch_is_refused(said):
    local, _ = said
    for fields, param in (
        ({"purpose": "fine-tune"}, "purpose"),
        ({"expires_after[seconds]": "3600"}, "expires_after[seconds]"),
        ({"more": "x"}, "more"),
    ):
        assert (await upload(local, b"{}", 400, **fields))["error"]["param"] == param
    await upload(local, b"{}", 400, purpose="x" * 2000)
    assert (await upload(local, b"", 400))["error"]["param"] == "file"
    form = {"purpose": (None, b"batch")}
    assert (await local.json("POST", PATH, 400, files=form))["error"]["param"] == "file"
    nameless = {"file": ("..", b"x"), **form}
    assert (await local.json("POST", PATH, 400, files=nameless))["error"]["param"] == "file"
    only = {"file": ("a", b"x")}
    assert (await local.json("POST", PATH, 400, files=only))["error"]["param"] == "purpose"
    twice = [("file", ("a", b"x")), ("file", ("b", b"x"))]
    await local.json("POST", PATH, 400, files=twice)
    await local.json("POST", PATH, 415, json={})
    await local.json("GET", f"{PATH}?purpose=batch_output", 400)
    await local.json("GET", f"{PATH}?after=file-none", 400)
    assert (await local.json("GET", PATH))["data"] == []


async def test_a_file_over_the_limit_is_refused(said, monkeypatch):
    monkeypatch.setattr("serve_app.gateway.openai.files.MAX_BATCH_FILE_BYTES", 1000)
    await upload(said[0], b"x" * 1000)
    assert (await upload(said[0], b"x" * 1001, 400))["error"]["param"] == "file"


async def test_items_that_callers_put_there_are_no_files(said):
    for value in ({}, {"filename": 1, "sha256": 2, "bytes": "x", "created_at": None}):
        item = {"namespace": ["openai", "files"], "key": "file-x", "value": value}
        await said[0].json("PUT", "/store/items", 204, json=item)
        await said[0].json("GET", f"{PATH}/file-x", 404)
        assert (await said[0].json("GET", PATH))["data"] == []


async def test_anothers_file_is_not_found(tmp_path: Path):
    async with guarded(tmp_path, {"says": SaysChunks(*text("one"))}) as platform:
        mine, other = await platform.key("ann"), await platform.key("bob", tenant="rival")
        form = {"files": {"file": ("a.jsonl", b"{}")}, "data": {"purpose": "batch"}}
        made = (await platform.ask(mine, "POST", PATH, **form)).json()
        for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            assert (await platform.ask(other, method, f"{PATH}/{made['id']}{path}")).status_code == 404
        assert (await platform.ask(other, "GET", PATH)).json()["data"] == []
        assert (await platform.ask(None, "POST", PATH, **form)).status_code == 401
        body = {"input_file_id": made["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        refused = await platform.ask(other, "POST", "/v1/batches", json=body)
        assert refused.json()["error"]["code"] == "file_not_found"


async def test_what_is_kept_needs_the_scopes_of_runs(tmp_path: Path):
    async with guarded(tmp_path, {"says": SaysChunks(*text("one"))}) as platform:
        reader, writer = await platform.key("ann", "runs:read"), await platform.key("bob", "runs:write")
        chat = await platform.key("cid", "chat")
        form = {"files": {"file": ("a.jsonl", b"{}")}, "data": {"purpose": "batch"}}
        file = (await platform.ask(writer, "POST", PATH, **form)).json()["id"]
        paths = (PATH, f"{PATH}/{file}", f"{PATH}/{file}/content", "/v1/batches")
        for path in paths:
            told = [(await platform.ask(key, "GET", path)).status_code for key in (reader, writer, chat)]
            assert told == [200, 403, 403], path
        changes = (
            ("POST", PATH, form),
            ("POST", "/v1/batches", {"json": {}}),
            ("DELETE", f"{PATH}/{file}", {}),
        )
        for method, path, body in changes:
            for key in (reader, chat):
                refused = await platform.ask(key, method, path, **body)
                assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_scope")
        for method, path in (("GET", ""), ("POST", "/cancel"), ("DELETE", "")):
            assert (await platform.ask(chat, method, f"/v1/responses/resp_1{path}")).status_code == 403
        assert (await platform.ask(reader, "GET", "/v1/responses/resp_1")).status_code == 404


async def test_an_upload_may_be_larger_than_other_bodies_but_not_endless(said, monkeypatch):
    await upload(said[0], b"x" * (17 << 20))
    monkeypatch.setattr("serve_app.gateway.bodies.MAX_BATCH_BYTES", 1000)
    await upload(said[0], b"x" * 1000, 413)
