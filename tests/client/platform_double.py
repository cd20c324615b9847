"""A small server that speaks the platform's HTTP, for tests of its clients: real sockets, scripted runs.

A run of graph `echo` gives its input back, of `research_report` a fixed report with a chart, of `hold` it
stays pending until `release` or a cancel. An input with `"fail": code` makes the run fail.
"""

import asyncio
import hashlib
import json
import threading
import uuid
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PNG = b"\x89PNG\r\n\x1a\n picture"
STAMP = "2026-01-02T03:04:05Z"


class Broken(Exception):
    """Raised inside an answer to cut the connection."""


@dataclass
class DoubleRun:
    id: str
    graph: str
    input: Any
    key: str
    status: str = "pending"
    error: dict[str, str] | None = None
    reason: str | None = None
    output: Any = None
    events: list[dict[str, Any]] = field(default_factory=list)


class PlatformDouble:
    """Start it with `with`; `url` is where it listens."""

    def __init__(self, port: int = 0) -> None:
        self.runs: dict[str, DoubleRun] = {}
        self.by_key: dict[str, str] = {}
        self.files: dict[str, bytes] = {}
        self.documents: dict[str, dict[str, bytes]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.cut_after: list[int] = []
        """How many frames each of the next streams sends before its connection breaks."""
        self.answer_with: list[Response] = []
        """Answers given to the next requests instead of the real ones."""
        self.wait_with: list[Response] = []
        """The same for waits alone."""
        self.drop_requests = 0
        """So many of the next requests are done, then cut before their answer."""
        self.ready = True
        self.port = port
        self.in_flight = 0
        self.most_in_flight = 0
        self.keep_alive_s: float | None = None
        """A comment is sent whenever a stream has been idle for so long."""
        self.cut_when_idle = False
        """Streams are cut instead, as some proxies do."""
        self.streams = 0
        self.gather = 0
        """No wait is answered before so many of them were there at once."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        config = uvicorn.Config(
            self._app(), host="127.0.0.1", port=self.port, log_level="critical", lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the server did not start"
            threading.Event().wait(0.005)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(10)

    def release(self, run_id: str) -> None:
        """Let a held run succeed."""
        run = self.runs[run_id]
        self._add(
            run, "step_done", "work", {"usage": {"input_tokens": 2, "output_tokens": 3}, "seconds": 1.5}
        )
        self._succeed(run, {"ok": True})

    def _app(self) -> Any:
        routes = [
            Route("/runs", self._create, methods=["POST"]),
            Route("/runs/search", self._search, methods=["POST"]),
            Route("/runs/{run}", self._get),
            Route("/runs/{run}/wait", self._wait),
            Route("/runs/{run}/stream", self._stream),
            Route("/runs/{run}/cancel", self._cancel, methods=["POST"]),
            Route("/graphs", self._graphs),
            Route("/readyz", self._readyz),
            Route("/healthz", self._healthz),
            Route("/files", self._upload, methods=["POST"]),
            Route("/files/{sha}", self._download),
            Route("/collections", self._collections),
            Route("/collections/{name}/documents", self._documents),
            Route("/collections/{name}/documents/{document:path}", self._put, methods=["PUT"]),
            Route("/collections/{name}/search", self._find, methods=["POST"]),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
        ]
        app = Starlette(routes=routes)

        async def outer(scope: Any, receive: Any, send: Any) -> None:
            headers = {k.decode(): v.decode() for k, v in scope["headers"]}
            self.requests.append((scope["method"], scope["raw_path"].decode(), headers))
            if self.answer_with:
                await self.answer_with.pop(0)(scope, receive, send)
            elif self.drop_requests:
                self.drop_requests -= 1
                await app(scope, receive, _into_the_void)
                await send(
                    {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]}
                )
                raise Broken
            else:
                await app(scope, receive, send)

        return outer

    async def _create(self, request: Request) -> Response:
        body = await request.json()
        key = request.headers["idempotency-key"]
        if body["agent_id"] not in ("echo", "research_report", "hold"):
            return _error(404, "unknown_graph", f"there is no graph {body['agent_id']!r}", "one of: echo")
        if key not in self.by_key:
            run = DoubleRun(str(uuid.uuid4()), body["agent_id"], body["input"], key)
            self.runs[run.id], self.by_key[key] = run, run.id
            self._begin(run)
        return JSONResponse(self._json(self.runs[self.by_key[key]]))

    def _begin(self, run: DoubleRun) -> None:
        given = run.input if isinstance(run.input, dict) else {}
        self._add(
            run,
            "run_started",
            None,
            {"graph": run.graph, "version": "1", "steps": ["work"], "input": run.input},
        )
        self._add(run, "step_started", "work", {"attempt": 1, "agent": "worker"})
        if run.graph == "hold":
            return
        if "fail" in given:
            run.status, run.error = "error", {"code": given["fail"], "message": "it broke", "fix": "mend it"}
            self._add(run, "step_failed", "work", {"error": run.error})
            self._add(run, "run_failed", None, {"error": run.error})
            return
        self._add(
            run, "step_done", "work", {"usage": {"input_tokens": 2, "output_tokens": 3}, "seconds": 1.5}
        )
        self._succeed(run, self._report(run) if run.graph == "research_report" else run.input)

    def _report(self, run: DoubleRun) -> dict[str, Any]:
        sha = hashlib.sha256(PNG).hexdigest()
        self.files[sha] = PNG
        chart = {"name": "chart.png", "sha256": sha, "size": len(PNG), "media_type": "image/png"}
        report = {
            "question": run.input["question"],
            "answer": [{"text": "So it is.", "citations": ["c1"], "origin": "model"}],
            "citations": [
                {
                    "id": "c1",
                    "document": "a.md",
                    "start": 0,
                    "end": 9,
                    "text": "So it is.",
                    "source": "document",
                }
            ],
            "analysis": [],
            "usage": {},
            "dropped": [{"text": "Maybe.", "reason": "no passage supports it"}],
        }
        return {"report": report, "markdown": "# Report\n\n![chart](chart.png)\n", "artifacts": [chart]}

    def _succeed(self, run: DoubleRun, output: Any) -> None:
        run.status, run.output = "success", output
        self._add(run, "run_done", None, {"output": output})

    def _add(self, run: DoubleRun, kind: str, step: str | None, data: dict[str, Any]) -> None:
        seq = len(run.events) + 1
        run.events.append(
            {"run": run.id, "seq": seq, "type": kind, "at": 1000.0 + seq, "step": step, "data": data}
        )

    def _json(self, run: DoubleRun) -> dict[str, Any]:
        usage = {"input_tokens": 2, "output_tokens": 3, "cached_tokens": 0, "model_calls": 1, "tool_calls": 0}
        steps = [
            {
                "key": "work",
                "step": "work",
                "index": None,
                "state": "done",
                "attempt": 1,
                "agent": "worker",
                "started_at": 1.0,
                "finished_at": 2.5,
                "usage": usage,
                "error": None,
            }
        ]
        return {
            "run_id": run.id,
            "agent_id": run.graph,
            "status": run.status,
            "metadata": {},
            "input": run.input,
            "created_at": STAMP,
            "updated_at": STAMP,
            "graph_version": "abc",
            "reason": run.reason,
            "error": run.error,
            "usage": usage,
            "steps": steps,
        }

    async def _get(self, request: Request) -> Response:
        run = self.runs.get(request.path_params["run"])
        return (
            JSONResponse(self._json(run))
            if run
            else _error(404, "not_found", "there is no such run", "manta runs")
        )

    async def _search(self, request: Request) -> Response:
        body = await request.json()
        found = [r for r in reversed(self.runs.values()) if body.get("agent_id") in (None, r.graph)]
        return JSONResponse([self._json(run) for run in found[: body["limit"]]])

    async def _wait(self, request: Request) -> Response:
        run = self.runs[request.path_params["run"]]
        if self.wait_with:
            return self.wait_with.pop(0)
        self.in_flight += 1
        self.most_in_flight = max(self.in_flight, self.most_in_flight)
        try:
            while run.status == "pending" or self.most_in_flight < self.gather:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.005)
        finally:
            self.in_flight -= 1
        output = run.output if isinstance(run.output, dict) else {"output": run.output}
        values = output if run.status == "success" else {}
        return JSONResponse({"run": self._json(run), "values": values, "messages": []})

    async def _stream(self, request: Request) -> Response:
        run = self.runs.get(request.path_params["run"])
        if run is None:
            return _error(404, "not_found", "there is no such run", "manta runs")
        after = int(request.headers.get("last-event-id", "0"))
        return StreamingResponse(self._frames(run, after), media_type="text/event-stream")

    async def _frames(self, run: DoubleRun, after: int) -> Any:
        cut = self.cut_after.pop(0) if self.cut_after else None
        sent = 0
        self.streams += 1
        loop = asyncio.get_running_loop()
        idle_since = loop.time()
        yield _frame("metadata", {"run_id": run.id, "agent_id": run.graph}) + ": keep-alive\n\n"
        while True:
            for event in run.events[after:]:
                if sent == cut:
                    raise Broken
                after, sent = event["seq"], sent + 1
                if event["type"] == "run_failed":
                    yield _frame("error", run.error)
                yield _frame("custom", event, event["seq"])
                if event["type"] == "step_started":
                    yield _frame(
                        "messages", [{"type": "AIMessageChunk", "content": "tok"}, {"step": event["step"]}]
                    )
                idle_since = loop.time()
            if run.status != "pending":
                break
            await asyncio.sleep(0.005)
            if self.keep_alive_s is not None and loop.time() - idle_since > self.keep_alive_s:
                if self.cut_when_idle:
                    raise Broken
                idle_since = loop.time()
                yield ": keep-alive\n\n"
        yield _frame("values", run.output)
        yield _frame("end", None)

    async def _cancel(self, request: Request) -> Response:
        run = self.runs[request.path_params["run"]]
        if run.status == "interrupted":
            return Response(status_code=204)
        if run.status != "pending":
            return _error(409, "conflict", "the run is over", "nothing to do")
        run.status, run.reason = "interrupted", "cancelled"
        run.error = {"code": "cancelled", "message": "the run was cancelled", "fix": ""}
        self._add(run, "run_cancelled", None, {"error": run.error})
        return Response(status_code=204)

    async def _graphs(self, request: Request) -> Response:
        names = ("echo", "hold", "research_report")
        return JSONResponse(
            [{"name": n, "description": n, "version": "1", "input_schema": {}} for n in names]
        )

    async def _healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _readyz(self, request: Request) -> Response:
        state = "ready" if self.ready else "down"
        body = {"ready": self.ready, "components": {"coordinator": {"state": state, "detail": ""}}}
        return JSONResponse(body, 200 if self.ready else 503)

    async def _upload(self, request: Request) -> Response:
        body = await request.body()
        sha = hashlib.sha256(body).hexdigest()
        self.files[sha] = body
        ref = {"name": request.query_params["name"], "sha256": sha, "size": len(body)}
        return JSONResponse({**ref, "media_type": request.headers["content-type"]})

    async def _download(self, request: Request) -> Response:
        body = self.files.get(request.path_params["sha"])
        return Response(body) if body is not None else _error(404, "not_found", "there is no such file", "")

    async def _put(self, request: Request) -> Response:
        body = await request.body()
        if b"\0" in body:
            return _error(422, "unreadable_document", "there is no text in it", "give text")
        name = request.path_params["document"]
        self.documents.setdefault(request.path_params["name"], {})[name] = body
        return JSONResponse({"document": name, "passages": 1, "sha256": hashlib.sha256(body).hexdigest()})

    async def _collections(self, request: Request) -> Response:
        found = self.documents.items()
        return JSONResponse([{"name": n, "documents": len(d), "passages": len(d)} for n, d in found])

    async def _documents(self, request: Request) -> Response:
        found = self.documents.get(request.path_params["name"])
        if found is None:
            return _error(404, "unknown_collection", "there is no such collection", "add a document to it")
        return JSONResponse(
            [
                {"document": n, "passages": 1, "sha256": hashlib.sha256(b).hexdigest()}
                for n, b in found.items()
            ]
        )

    async def _find(self, request: Request) -> Response:
        body = await request.json()
        found = self.documents[request.path_params["name"]].items()
        texts = [(n, b.decode()) for n, b in found if body["query"] in b.decode()]
        return JSONResponse(
            [
                {
                    "id": n,
                    "document": n,
                    "start": 0,
                    "end": len(t),
                    "text": t,
                    "score": 1.0,
                    "source": "document",
                }
                for n, t in texts
            ]
        )

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        if body["model"] == "missing":
            error = {
                "message": "there is no model 'missing'",
                "type": "invalid_request_error",
                "code": "not_found",
                "param": "model",
            }
            return JSONResponse({"error": error}, 404)
        text = f"you said: {body['messages'][-1]['content']}"
        if not body["stream"]:
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
            return JSONResponse({"model": body["model"] or "small", "choices": [choice], "usage": usage})
        pieces = [{"choices": [{"index": 0, "delta": {"content": word + " "}}]} for word in text.split()]
        frames = [f"data: {json.dumps(p)}\n\n".encode() for p in [*pieces, {"choices": [], "usage": {}}]]

        async def answer() -> Any:
            for frame in frames:
                yield frame[:5]
                yield frame[5:]
            yield b"data: [DONE]\n\n"

        return StreamingResponse(answer(), media_type="text/event-stream")


async def _into_the_void(message: Any) -> None:
    return None


def _frame(event: str, data: Any, seq: int | None = None) -> str:
    head = f"id: {seq}\n" if seq else ""
    return f"{head}event: {event}\ndata: {json.dumps(data)}\n\n"


def _error(status: int, code: str, message: str, fix: str) -> Response:
    return JSONResponse({"code": code, "message": message, "metadata": {"fix": fix}}, status)
