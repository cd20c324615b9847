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
        self.drop_requests = 0
        """So many of the next requests are done, then cut before their answer."""
        self.ready = True
        self.port = port
        self.in_flight = 0
        self.most_in_flight = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        config = uvicorn.Config(self._app(), host="127.0.0.1", port=self.port, log_level="critical", lifespan="off")
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
        self._add(run, "step_done", "work", {"usage": {"input_tokens": 2, "output_tokens": 3}, "seconds": 1.5})
        self._succeed(run, {"ok": True})

    def _app(self) -> Starlette:
        routes = [
            Route("/runs", self._create, methods=["POST"]),
            Route("/runs/search", self._search, methods=["POST"]),
            Route("/runs/{run}", self._get),
            Route("/runs/{run}/wait", self._wait),
            Route("/runs/{run}/stream", self._stream),
            Route("/runs/{run}/cancel", self._cancel, methods=["POST"]),
            Route("/graphs", self._graphs),
            Route("/readyz", self._readyz),
            Route("/files", self._upload, methods=["POST"]),
            Route("/files/{sha}", self._download),
            Route("/collections", self._collections),
            Route("/collections/{name}/documents", self._documents),
            Route("/collections/{name}/documents/{document:path}", self._put, methods=["PUT"]),
            Route("/collections/{name}/search", self._find, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
        ]
        for route in routes:
            route.endpoint = route.app = None  # type: ignore[assignment]
        return Starlette(routes=[])
