"""What goes over HTTP, without a transport: each call of the service as a value, its answer as a dataclass.

The clients only send a `Call` and hand the response to `answer`.
"""

import hashlib
import json
import mimetypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx

from manta.errors import (
    Conflict,
    InvalidInput,
    MantaError,
    NotFound,
    PlatformError,
    Unauthorized,
    Unavailable,
    error_from_json,
)
from manta.messages import ArtifactRef, ChatMessage, Passage, Usage, from_json
from manta.sse import unexpected

T = TypeVar("T")
_BY_STATUS: dict[int, type[MantaError]] = {
    400: InvalidInput,
    401: Unauthorized,
    404: NotFound,
    409: Conflict,
    422: InvalidInput,
    503: Unavailable,
}
FINAL_STATES = frozenset({"success", "error", "timeout", "interrupted"})


@dataclass(frozen=True, slots=True)
class StepState:
    """One step execution. Times are epoch seconds, None while they have not come."""

    key: str
    step: str
    state: str
    index: int | None = None
    attempt: int = 1
    agent: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    usage: Usage = field(default_factory=Usage)
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A run as the service tells of it. `status`: pending, success, error, timeout or interrupted."""

    id: str
    graph: str
    status: str
    created_at: datetime
    updated_at: datetime
    input: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    graph_version: str = ""
    reason: str | None = None
    error: MantaError | None = None
    usage: Usage = field(default_factory=Usage)
    steps: tuple[StepState, ...] = ()

    @property
    def done(self) -> bool:
        return self.status in FINAL_STATES

    def failure(self) -> MantaError:
        """Why a run that is done did not succeed."""
        cause = self.reason or self.status
        return self.error or MantaError(
            f"run {self.id} ended: {cause}", fix=f"manta show {self.id}", code=cause
        )


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run that is done and its output: the graph's object, or `{"output": x}` for any other value."""

    run: Run
    output: dict[str, Any]


@dataclass(frozen=True, slots=True)
class GraphInfo:
    name: str
    description: str = ""
    version: str = ""
    input_schema: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    name: str
    documents: int = 0
    passages: int = 0


@dataclass(frozen=True, slots=True)
class DocumentInfo:
    document: str
    passages: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Component:
    state: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Readiness:
    ready: bool
    components: dict[str, Component]


@dataclass(frozen=True, slots=True)
class ChatReply:
    text: str
    model: str
    finish_reason: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request and how its answer is read. `repeatable`: sending it twice does no more than once."""

    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    json: Any = None
    content: bytes | None = None
    params: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = False
    read_timeout_s: float = 60.0
    accepts: frozenset[int] = frozenset()
    """Statuses over 399 that are answers too."""


def answer(call: Call[T], response: httpx.Response) -> T:
    """The parsed answer. Raises the MantaError that an error response describes."""
    if response.status_code >= 400 and response.status_code not in call.accepts:
        raise error_of(response)
    try:
        return call.parse(response)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise unexpected(f"{call.method} {call.path}: {type(error).__name__}: {error}") from None


def error_of(response: httpx.Response) -> MantaError:
    """The error in a response; one with a code that no class has gets the class of its status."""
    error = _described_error(response)
    kind = _BY_STATUS.get(response.status_code)
    if type(error) is MantaError and kind is not None:
        return kind(error.message, fix=error.fix, code=error.code)
    return error


def _described_error(response: httpx.Response) -> MantaError:
    """Reads both shapes of errors: the Agent Protocol's and OpenAI's."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        inner = body["error"]
        return error_from_json({**inner, "code": inner.get("code") or inner.get("type") or "error"})
    if isinstance(body, dict) and "message" in body:
        metadata = body.get("metadata")
        fix = metadata.get("fix", "") if isinstance(metadata, dict) else body.get("fix", "")
        return error_from_json({"code": body.get("code", "error"), "message": body["message"], "fix": fix})
    return PlatformError(
        f"HTTP {response.status_code} from {response.url}",
        fix="see manta logs",
        code=f"http_{response.status_code}",
    )


def unreachable(base_url: str, error: Exception) -> MantaError:
    return PlatformError(f"no answer at {base_url}: {error}", fix="manta up", code="platform_unreachable")


def submit(graph: str, run_input: Any, key: str, metadata: Mapping[str, Any] | None) -> Call[Run]:
    body = {"agent_id": graph, "input": run_input, "metadata": dict(metadata or {})}
    headers = {"Idempotency-Key": key}
    return Call("POST", "/runs", lambda r: run_of(r.json()), json=body, headers=headers, repeatable=True)


def get(run_id: str) -> Call[Run]:
    return Call("GET", f"/runs/{_part(run_id)}", lambda r: run_of(r.json()), repeatable=True)


def wait(run_id: str, read_timeout_s: float) -> Call[RunResult]:
    def parse(response: httpx.Response) -> RunResult:
        body = response.json()
        return RunResult(run_of(body["run"]), dict(body.get("values") or {}))

    return Call("GET", f"/runs/{_part(run_id)}/wait", parse, repeatable=True, read_timeout_s=read_timeout_s)


def search_runs(
    graph: str | None, status: str | None, metadata: Mapping[str, Any] | None, limit: int
) -> Call[Sequence[Run]]:
    wanted = {"agent_id": graph, "status": status, "metadata": dict(metadata) if metadata else None}
    body = {**{k: v for k, v in wanted.items() if v is not None}, "limit": limit}
    return Call(
        "POST", "/runs/search", lambda r: [run_of(run) for run in r.json()], json=body, repeatable=True
    )


def cancel(run_id: str, until_done: bool) -> Call[None]:
    params = {"wait": "true" if until_done else "false"}
    return Call("POST", f"/runs/{_part(run_id)}/cancel", lambda r: None, params=params, repeatable=True)


def upload(path: Path) -> Call[ArtifactRef]:
    headers = {"Content-Type": _media_type(path.name)}
    return Call(
        "POST",
        "/files",
        lambda r: from_json(ArtifactRef, r.json()),
        content=read_file(path),
        params={"name": path.name},
        headers=headers,
        repeatable=True,
    )


def download(sha256: str) -> Call[bytes]:
    def parse(response: httpx.Response) -> bytes:
        if hashlib.sha256(response.content).hexdigest() != sha256:
            raise ValueError("the file's content does not match its hash")
        return response.content

    return Call("GET", f"/files/{_part(sha256)}", parse, repeatable=True)


def add_document(collection: str, source: Path | bytes, name: str | None) -> Call[DocumentInfo]:
    if isinstance(source, bytes):
        if not name:
            raise InvalidInput("a document given as bytes needs a name", fix="pass name='notes.md'")
        title, content = name, source
    else:
        title, content = name or source.name, read_file(source)
    path = f"/collections/{_part(collection)}/documents/{quote(title)}"
    headers = {"Content-Type": _media_type(title)}
    # The service splits and embeds the document before it answers.
    return Call("PUT", path, _document, content=content, headers=headers, repeatable=True, read_timeout_s=600)


def documents(collection: str) -> Call[Sequence[DocumentInfo]]:
    path = f"/collections/{_part(collection)}/documents"
    return Call("GET", path, lambda r: [from_json(DocumentInfo, d) for d in r.json()], repeatable=True)


def search_documents(collection: str, query: str, limit: int) -> Call[Sequence[Passage]]:
    return Call(
        "POST",
        f"/collections/{_part(collection)}/search",
        lambda r: [from_json(Passage, p) for p in r.json()],
        json={"query": query, "limit": limit},
        repeatable=True,
    )


def collections() -> Call[Sequence[CollectionInfo]]:
    return Call(
        "GET", "/collections", lambda r: [from_json(CollectionInfo, c) for c in r.json()], repeatable=True
    )


def graphs() -> Call[Sequence[GraphInfo]]:
    return Call("GET", "/graphs", lambda r: [from_json(GraphInfo, g) for g in r.json()], repeatable=True)


def ready() -> Call[Readiness]:
    def parse(response: httpx.Response) -> Readiness:
        body = response.json()
        parts = {str(k): from_json(Component, v) for k, v in body["components"].items()}
        return Readiness(bool(body["ready"]), parts)

    return Call("GET", "/readyz", parse, repeatable=True, read_timeout_s=10, accepts=frozenset({503}))


def chat(
    messages: "str | Sequence[ChatMessage | Mapping[str, Any]]", model: str, stream: bool, **options: Any
) -> Call[ChatReply]:
    """An empty `model` is the platform's default.

    `options` are further fields of OpenAI's request: temperature, max_tokens, stop, seed.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    body = {"model": model, "messages": [_message(m) for m in messages], "stream": stream, **options}
    return Call("POST", "/v1/chat/completions", _chat_reply, json=body, read_timeout_s=600)


def chat_delta(data: str) -> str:
    """The text in one chunk of a streamed chat; raises the error a chunk may carry instead."""
    try:
        chunk = json.loads(data)
        if isinstance(chunk.get("error"), dict):
            inner = chunk["error"]
            raise error_from_json({**inner, "code": inner.get("code") or inner.get("type") or "error"})
        return "".join(choice.get("delta", {}).get("content") or "" for choice in chunk.get("choices") or [])
    except (ValueError, AttributeError, TypeError):
        raise unexpected(f"chat chunk {data[:80]!r}") from None


def read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"cannot read {path}: {error.strerror}", fix="check the path", code="unreadable_file"
        ) from None


def run_of(data: Any) -> Run:
    error = data.get("error")
    return Run(
        id=str(data["run_id"]),
        graph=str(data.get("agent_id") or ""),
        status=str(data["status"]),
        created_at=datetime.fromisoformat(data["created_at"]),
        updated_at=datetime.fromisoformat(data["updated_at"]),
        input=data.get("input"),
        metadata=dict(data.get("metadata") or {}),
        graph_version=str(data.get("graph_version") or ""),
        reason=data.get("reason"),
        error=error_from_json(error) if error else None,
        usage=from_json(Usage, data.get("usage") or {}),
        steps=tuple(
            from_json(StepState, {**s, "usage": s.get("usage") or {}}) for s in data.get("steps") or []
        ),
    )


def _document(response: httpx.Response) -> DocumentInfo:
    return from_json(DocumentInfo, response.json())


def _chat_reply(response: httpx.Response) -> ChatReply:
    body = response.json()
    choice, usage = body["choices"][0], body.get("usage") or {}
    counts = Usage(int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0)), model_calls=1)
    return ChatReply(
        str(choice["message"].get("content") or ""), str(body["model"]), str(choice["finish_reason"]), counts
    )


def _message(message: "ChatMessage | Mapping[str, Any]") -> dict[str, Any]:
    if not isinstance(message, ChatMessage):
        return dict(message)
    data: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        data["tool_calls"] = [
            {
                "id": c.id,
                "type": "function",
                "function": {"name": c.name, "arguments": json.dumps(c.arguments)},
            }
            for c in message.tool_calls
        ]
    if message.tool_call_id:
        data["tool_call_id"] = message.tool_call_id
    return data


def _media_type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _part(value: str) -> str:
    return quote(value, safe="")
