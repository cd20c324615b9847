"""The lines of a batch's files: requests that come in, cut into parts, and what is answered to each. Pure."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from manta.errors import InvalidInput, MantaError
from serve_app import strict_json
from serve_app.gateway.bodies import MAX_JSON_BYTES
from serve_app.gateway.errors import error_body

JSONL = "application/jsonl"
MAX_LINES = 50_000
LINES_A_PART = 32
"""One step of a batch's run answers a part."""
MAX_PARTS = 1000
"""Of a batch with many lines; its parts are longer then."""
PART_BYTES = 4 << 20
"""What a part's lines are, about: with long lines there are fewer of them."""
MAX_FAULTS = 100
"""How many faults of a file are told."""
MAX_CUSTOM_ID = 512
_IDS = uuid.UUID("5b7f4f8e-3d0c-5d3c-8d4b-6a6f0c1e7a55")


@dataclass(frozen=True, slots=True)
class Line:
    """A request: what it is called by whoever sent it, and the body of its route."""

    custom_id: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cut:
    """A part of a file: so many lines, from byte `start` to before byte `end`. `id_bytes`: of their ids in JSON."""

    start: int
    end: int
    lines: int
    id_bytes: int


@dataclass(slots=True)
class Plan:
    """What a file comes to. With `faults`, as OpenAI's `batch.errors` has them, nothing of it is done."""

    total: int = 0
    faults: list[dict[str, Any]] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)


def planned(data: bytes, endpoint: str) -> Plan:
    """Looks at every line: JSON with a `custom_id` of its own, for this endpoint. Bodies are looked at later."""
    plan, seen = Plan(), dict[str, int]()
    ends: list[tuple[int, int]] = []
    for number, start, end in _places(data):
        plan.total += 1
        fault = _fault(data[start:end], endpoint, seen)
        if fault is not None and len(plan.faults) < MAX_FAULTS:
            plan.faults.append({**fault, "line": number})
        ends.append((start, end))
    if not plan.total:
        plan.faults = [_told("empty_file", "the file has no lines")]
    elif plan.total > MAX_LINES:
        plan.faults = [_told("too_many_lines", f"the file has {plan.total} lines, {MAX_LINES} are allowed")]
    if not plan.faults:
        plan.cuts = list(_cuts(ends, list(seen.values())))
    return plan


def lines_of(part: bytes) -> list[Line]:
    """The requests of a part. Raises InvalidInput where it is none."""
    found = []
    for _, start, end in _places(part):
        told = strict_json.loads(_text(part[start:end]))
        found.append(Line(told["custom_id"], told["body"]))
    return found


def _places(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each line that says something."""
    start, number = 0, 0
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end + 1
        number += 1
        if data[start:end].strip():
            yield number, start, end
        start = end


def _cuts(ends: list[tuple[int, int]], ids: list[int]) -> Iterator[Cut]:
    """`ids`: the size of each line's id."""
    most = max(LINES_A_PART, -(-len(ends) // MAX_PARTS))
    start, first = ends[0][0], 0
    for index, (_, end) in enumerate(ends):
        lines = index + 1 - first
        if lines == most or end - start >= PART_BYTES or index == len(ends) - 1:
            yield Cut(start, end, lines, sum(ids[first : index + 1]))
            start, first = end, index + 1


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput("not UTF-8", fix="send UTF-8") from None


def _fault(raw: bytes, endpoint: str, seen: dict[str, int]) -> dict[str, Any] | None:
    """Puts the line's id among those `seen`, with its size in JSON."""
    if len(raw) > MAX_JSON_BYTES:
        return _told("invalid_json_line", f"the line is over {MAX_JSON_BYTES >> 20} MiB")
    try:
        told = strict_json.loads(_text(raw))
    except InvalidInput as error:
        return _told("invalid_json_line", error.message)
    if not isinstance(told, dict):
        return _told("invalid_json_line", "the line is no JSON object")
    name = told.get("custom_id")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_CUSTOM_ID:
        return _told("invalid_custom_id", f"custom_id is a text of 1 to {MAX_CUSTOM_ID}", "custom_id")
    if name in seen:
        return _told("duplicate_custom_id", f"the custom_id {name[:80]!r} is there twice", "custom_id")
    seen[name] = _size(name)
    if told.get("method") != "POST":
        return _told("invalid_method", "method is POST", "method")
    if told.get("url") != endpoint:
        return _told("invalid_url", f"url is the batch's endpoint, {endpoint}", "url")
    if not isinstance(told.get("body"), dict):
        return _told("invalid_body", "body is the object that the endpoint takes", "body")
    return None


def _told(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    return {"code": code, "message": message, "param": param, "line": None}


def answered(custom_id: str, body: dict[str, Any]) -> dict[str, Any]:
    """A line of the output file."""
    return _result(custom_id, 200, body)


def refused(custom_id: str, error: MantaError) -> dict[str, Any]:
    """A line of the error file: what the route itself would have answered."""
    status = 400 if isinstance(error, InvalidInput) else error.http_status
    return _result(custom_id, status, error_body("/v1/", error))


def _result(custom_id: str, status: int, body: dict[str, Any]) -> dict[str, Any]:
    request = uuid.uuid4().hex
    response = {"status_code": status, "request_id": f"req_{request}", "body": body}
    return {"id": f"batch_req_{request}", "custom_id": custom_id, "response": response, "error": None}


def not_done(custom_id: str, code: str, message: str) -> dict[str, Any]:
    """A line of the error file: of a request that was never answered. The same each time."""
    request = uuid.uuid5(_IDS, custom_id).hex
    error = {"code": code, "message": message}
    return {"id": f"batch_req_{request}", "custom_id": custom_id, "response": None, "error": error}


def not_done_bytes(lines: int, id_bytes: int, code: str, message: str) -> int:
    """What that comes to when encoded, for so many lines with ids of that size in JSON."""
    return lines * (len(encoded([not_done("", code, message)])) - _size("")) + id_bytes


def _size(text: str) -> int:
    return len(json.dumps(text))


def encoded(lines: list[dict[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()
