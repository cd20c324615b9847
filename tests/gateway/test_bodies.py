"""Bodies: too large ones are cut off, and JSON that nothing can hold is the caller's error."""

import sys
from collections.abc import AsyncIterator

import pytest

from serve_app.gateway.bodies import MAX_FILE_BYTES, MAX_JSON_BYTES
from tests.gateway.platform import Local

JSON = {"Content-Type": "application/json"}
PIECE = b" " * (1 << 20)
FILES = [("POST", "/files?name=a.bin"), ("PUT", "/collections/c/documents/d.txt")]
ROUTES = [("POST", "/runs", MAX_JSON_BYTES), ("POST", "/v1/chat/completions", MAX_JSON_BYTES)]
ROUTES += [(method, path, MAX_FILE_BYTES) for method, path in FILES]


class Body:
    """Sent piece by piece without a length; counts what was taken."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.taken = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.taken < self._size:
            self.taken += len(PIECE)
            yield PIECE


def code(path: str, body: dict) -> str:
    return (body["error"] if path.startswith("/v1") else body)["code"]


@pytest.mark.parametrize(("method", "path", "limit"), ROUTES)
async def test_a_body_without_a_length_is_read_no_further_than_the_limit(
    local: Local, method: str, path: str, limit: int
):
    body = Body(4 * limit)
    answer = await local.json(method, path, 413, content=body, headers=JSON)
    assert code(path, answer) == "payload_too_large"
    assert body.taken <= limit + len(PIECE)


@pytest.mark.parametrize(("method", "path", "limit"), ROUTES)
async def test_a_declared_length_over_the_limit_is_refused_unread(
    local: Local, method: str, path: str, limit: int
):
    body = Body(len(PIECE))
    headers = {**JSON, "Content-Length": str(limit + 1)}
    answer = await local.json(method, path, 413, content=body, headers=headers)
    assert code(path, answer) == "payload_too_large"
    assert body.taken == 0


async def test_a_file_may_be_larger_than_json(local: Local):
    ref = await local.json("POST", "/files?name=a.bin", content=Body(MAX_JSON_BYTES + 1))
    assert ref["size"] == MAX_JSON_BYTES + len(PIECE)


@pytest.mark.parametrize("name", ["/", "..", "a%00b", "x/"])
async def test_a_file_needs_a_name(local: Local, name: str):
    response = await local.http.post(f"/files?name={name}", content=b"x")
    assert response.status_code == (200 if name == "x/" else 422)


@pytest.mark.parametrize("sha", ["x" * 64, "é" * 64, "A" * 64, "0"])
async def test_a_file_is_named_by_its_hash(local: Local, sha: str):
    await local.json("GET", f"/files/{sha}", 422)


DEEP = 200
BAD = {
    "nan": b'{"agent_id": "echo", "input": NaN, "messages": [NaN]}',
    "infinity": b'{"agent_id": "echo", "input": -Infinity, "messages": [{"role": "user", "content": -Infinity}]}',
    "too large a number": b'{"agent_id": "echo", "input": 1e999, "seed": 1e999, "messages": [{}]}',
    "deep": b'{"agent_id": "echo", "messages": [{}], "input": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "bomb": b'{"agent_id": "echo", "messages": [{}], "input": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "object bomb": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "lone surrogate": rb'{"agent_id": "echo", "input": "\ud800", "messages": [{"role": "user", "content": "\ud800"}]}',
    "surrogate as a key": rb'{"agent_id": "echo", "input": {"\uDFFF": 1}, "messages": [{"\uDFFF": 1}]}',
    "surrogate in bytes": b'{"agent_id": "echo", "input": "\xed\xa0\x80", "messages": [{"a": "\xed\xa0\x80"}]}',
    "not utf-8": b'{"agent_id": "\xff", "messages": [{"a": "\xff"}]}',
    "5,000 digits": b'{"agent_id": "echo", "messages": [{}], "input": ' + b"9" * 5000 + b"}",
    "a key twice": b'{"agent_id": "echo", "messages": [{}], "input": {"a": 1, "a": 2}}',
    "a nul": rb'{"agent_id": "echo", "messages": [{"role": "user", "content": "\u0000"}]}',
    "a byte order mark": b'\xef\xbb\xbf{"agent_id": "echo", "messages": [{}]}',
    "utf-16": '{"agent_id": "echo"}'.encode("utf-16"),
    "half": b'{"agent_id": "ec',
    "no json": b"hello",
}  # fmt: skip
NO_OBJECT = {"empty": b"", "a list": b"[]", "a string": b'"x"', "null": b"null"}


@pytest.mark.parametrize("path", ["/runs", "/runs/wait", "/runs/stream", "/v1/chat/completions"])
@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
async def test_json_that_cannot_be_kept_is_refused(local: Local, path: str, body: bytes):
    answer = await local.json("POST", path, 400, content=body, headers=JSON)
    assert code(path, answer) == "invalid_json"
    assert await local.json("POST", "/runs/search", json={}) == []


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/runs", 422, {"invalid_input"}),
        # As OpenAI says it of a body that is not there, and of one that is something else.
        ("/v1/chat/completions", 400, {"missing_required_parameter", "invalid_type"}),
    ],
)
@pytest.mark.parametrize("body", NO_OBJECT.values(), ids=NO_OBJECT.keys())
async def test_json_that_is_no_object_does_not_fit(
    local: Local, path: str, status: int, said: set[str], body: bytes
):
    answer = await local.json("POST", path, status, content=body, headers=JSON)
    assert code(path, answer) in said


async def test_a_nul_that_is_only_written_out_passes(local: Local):
    body = await local.json("POST", "/runs/wait", json={"agent_id": "echo", "input": {"a": "\\u0000"}})
    assert body["values"] == {"a": "\\u0000"}


@pytest.mark.parametrize("path", ["/runs", "/files?name=x", "/v1/embeddings"])
async def test_a_packed_body_is_not_unpacked(local: Local, path: str):
    headers = {**JSON, "Content-Encoding": "gzip"}
    answer = await local.json("POST", path, 415, content=b"\x1f\x8b", headers=headers)
    assert code(path, answer) == "unsupported_media_type"
    await local.json("POST", "/runs", json={"agent_id": "echo"}, headers={"Content-Encoding": "identity"})


async def test_whole_characters_numbers_and_depths_pass(local: Local):
    value: object = {"smile": "😀", "big": 2**70, "small": 1e-400, "path": "C:\\\\udata"}
    for _ in range(90):
        value = [value]
    body = await local.json("POST", "/runs/wait", json={"agent_id": "echo", "input": {"v": value}})
    assert body["run"]["input"] == {"v": value}
    text = rb'{"agent_id": "echo", "input": "\ud83d\ude00"}'
    assert (await local.json("POST", "/runs", content=text, headers=JSON))["input"] == "😀"


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
async def test_what_a_form_can_send_is_not_json(local: Local, kind: str | None):
    headers = {"Content-Type": kind} if kind else {}
    response = await local.http.post("/runs", content=b'{"agent_id": "echo"}', headers=headers)
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


def test_the_depth_bomb_is_one():
    assert sys.getrecursionlimit() < 100_000
