"""A platform in one process: the real gateway over the real coordinator, journal and document store."""

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from agents.context import LocalArtifacts
from coordinator.service import CoordinatorService
from coordinator.store.journal import Journal
from manta.clock import SystemClock
from manta.config import LimitSettings, RouterSettings
from manta.errors import MantaError, NotFound, Unavailable
from manta.graph import Names, parse_graph
from manta.messages import ChatChunk, ChatRequest, Task
from manta.protocols import ChatModel
from serve_app.gateway.app import build_api
from serve_app.gateway.deps import Platform
from serve_app.models.choices import answers
from serve_app.models.names import model_app
from tests.coordinator.functions import FunctionRuntime
from tests.tools.hashing_embedder import HashingEmbedder
from tools.actor import RemoteDocuments
from tools.documents import DocumentStore

BASE = "http://127.0.0.1:8000"


class LocalActor:
    """Calls an object of this process as `NamedActor` calls one of another. While `away` it does not answer."""

    def __init__(self, target: Any) -> None:
        self._target = target
        self.away: set[str] = set()
        self.trouble: MantaError = Unavailable("it restarts")
        self.calls: list[str] = []

    async def call(self, method: str, *arguments: Any, patience_s: float = 15.0) -> Any:
        self.calls.append(method)
        if method in self.away:
            raise self.trouble
        if method == "search" and isinstance(arguments[-1], dict):
            answer = self._target.search(arguments[0], **arguments[1])
        else:
            answer = getattr(self._target, method)(*arguments)
        return await answer if asyncio.iscoroutine(answer) else answer

    def tell(self, method: str, *arguments: Any) -> None:
        """What is told need not arrive, and here does not."""


class LocalModel:
    """A model of this process with what a deployment adds."""

    def __init__(self, model: ChatModel) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        return answers(self._model.stream, request)

    async def ping(self) -> bool:
        return True

    async def stats(self) -> list[dict[str, Any]]:
        return [{"node": "here", "running": 0}]


class LocalEmbedder(HashingEmbedder):
    async def embed_counted(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        return await self.embed(texts), sum(len(text.split()) for text in texts)

    async def stats(self) -> list[dict[str, Any]]:
        return [{"node": "here", "texts": 0}]


class LocalModels:
    routers: Mapping[str, RouterSettings] = {}

    def __init__(self, models: Mapping[str, ChatModel]) -> None:
        self._models = {name: LocalModel(model) for name, model in models.items()}

    async def names(self) -> tuple[str, ...]:
        return tuple(self._models)

    async def require(self, name: str) -> None:
        self.get(name)

    async def windows(self) -> dict[str, int]:
        return {name: (await model.info()).context_window for name, model in self._models.items()}

    def resolve(self, name: str) -> str:
        return name or next(iter(self._models))

    def get(self, name: str) -> LocalModel:
        if name not in self._models:
            raise NotFound(f"there is no model {name!r}", code="model_not_found")
        return self._models[name]

    def replicas_of(self, name: str) -> LocalModel:
        return self.get(name)


class LocalKeeper:
    """Deploys nothing, but says and does what the keeper would: a step each time that it is asked for states.

    A version waits, is being deployed, then runs, and a route is activated once its versions do. Versions named in
    `broken` fail to start. While `idle` it does nothing.
    """

    def __init__(self, journal: Callable[[], Journal]) -> None:
        self._journal = journal
        self._states: dict[str, dict[str, Any]] = {}
        self.broken: set[str] = set()
        self.idle = False

    async def states(self) -> dict[str, dict[str, Any]]:
        if not self.idle:
            await self._step()
        return dict(self._states)

    async def _step(self) -> None:
        models = self._journal().models
        plan = await models.plan()
        up = {model_app(version.model, version.version): version for version in plan.up}
        self._states = {app: self._state(app, self._states.get(app)) for app in up}
        for route in plan.pending:
            told = [self._states[model_app(route.model, version)] for version in route.weights]
            failed = next((each["message"] for each in told if each["state"] == "failed"), None)
            if failed is not None:
                await models.fail(route.model, route.revision, failed)
            elif all(each["state"] == "running" for each in told):
                await models.activate(route.model, route.revision)
        for version in up.values():
            await models.retire(version.model, version.version)

    def _state(self, app: str, before: dict[str, Any] | None) -> dict[str, Any]:
        if before is None:
            return {"state": "deploying", "message": "", "replicas": 0}
        if app in self.broken:
            return {"state": "failed", "message": "there are no weights", "replicas": 0}
        return {"state": "running", "message": "", "replicas": 1}


@dataclass
class Local:
    """A platform with the graphs of `GRAPHS`. Runs of `hold` go on until `release` is set."""

    service: CoordinatorService
    coordinator: LocalActor
    api: FastAPI
    http: httpx.AsyncClient
    runtime: FunctionRuntime
    release: asyncio.Event
    keeper: LocalActor

    async def json(self, method: str, path: str, status: int = 200, **request: Any) -> Any:
        response = await self.http.request(method, path, **request)
        assert response.status_code == status, response.text
        return response.json() if response.content else None


GRAPHS: dict[str, dict[str, Any]] = {
    # Goes on until it is released.
    "hold": {"steps": [{"id": "work", "agent": "hold", "input": {"value": "${input}"}}]},
    # Gives its input back.
    "echo": {"steps": [{"id": "work", "agent": "echo", "input": {"value": "${input}"}}]},
    # The one that runs when none is named.
    "research_report": {"steps": [{"id": "work", "agent": "echo", "input": {"value": "${input}"}}]},
    "fail": {"steps": [{"id": "work", "agent": "fail", "input": {"value": "${input}"}}]},
    "ask-beside": {
        "steps": [
            {"id": "check", "approval": {"question": "Meanwhile?"}},
            {"id": "work", "agent": "hold", "input": {"value": 1}},
        ]
    },
    # Fails at its first try only, and says how often it was asked.
    "flaky": {"steps": [{"id": "work", "agent": "flaky"}]},
    # Waits for a person.
    "ask": {
        "steps": [
            {"id": "draft", "agent": "echo", "input": {"value": "${input.text}"}},
            {"id": "check", "approval": {"question": "Send it?", "show": "${steps.draft}"}},
            {"id": "send", "agent": "echo", "input": {"value": "${steps.check.value}"}},
        ],
        "input_schema": {"type": "object", "required": ["text"]},
    },
    # A conversation: says what it was told, and how many messages the thread has.
    "chat": {
        "chat": True,
        "steps": [{"id": "reply", "agent": "talk", "input": {"messages": "${input.messages}", "thread": "${thread}"}}],
    },
    "nested": {
        "steps": [
            {
                "id": "angles",
                "for_each": "${input.items}",
                "input": {"item": "${item}"},
                "graph": {"steps": [{"id": "draft", "agent": "echo", "input": {"value": "${input.item}"}}]},
            }
        ]
    },
}  # fmt: skip


def _talk(task: Task) -> Any:
    told, thread = task.input.get("messages") or [{"content": ""}], task.input.get("thread") or {}
    text = f"you said {told[-1]['content']}, after {len(thread.get('messages') or [])} messages"
    return {"messages": [{"role": "assistant", "content": text}], "turns": len(told)}


_migrated: list[bytes] = []


async def _new_journal() -> bytes:
    """An empty journal; its tables are made once for all tests."""
    if not _migrated:
        with tempfile.TemporaryDirectory() as folder:
            journal = await Journal.open(f"sqlite:///{folder}/journal.db", SystemClock())
            await journal.close()
            _migrated.append((Path(folder) / "journal.db").read_bytes())
    return _migrated[0]


async def start(
    folder: Path,
    models: Mapping[str, ChatModel],
    limits: LimitSettings | None = None,
    **options: Any,
) -> tuple[Local, Callable[[], Any]]:
    release = asyncio.Event()
    tries: Counter[str] = Counter()

    async def hold(task: Task) -> str:
        await release.wait()
        return "released"

    def echo(task: Task) -> Any:
        return task.input["value"]

    def fail(task: Task) -> None:
        raise NotFound("nothing there", fix="look elsewhere")

    def flaky(task: Task) -> int:
        tries[task.scope.run] += 1
        if tries[task.scope.run] == 1:
            raise NotFound("not yet", fix="resume it")
        return tries[task.scope.run]

    agents = {"hold": hold, "echo": echo, "fail": fail, "flaky": flaky, "talk": _talk}
    graphs = {name: parse_graph({"name": name, **graph}) for name, graph in GRAPHS.items()}
    runtime = FunctionRuntime(agents)
    names = Names(frozenset(agents), frozenset())
    (folder / "journal.db").write_bytes(await _new_journal())
    journal = f"sqlite:///{folder}/journal.db"
    service = CoordinatorService(journal, runtime, graphs, names, SystemClock(), "me", limits=limits)
    await service.started()
    coordinator = LocalActor(service)
    embedder = LocalEmbedder()
    store = LocalActor(DocumentStore(folder / "documents", embedder))
    documents = RemoteDocuments(store)  # type: ignore[arg-type]
    # As its actor answers.
    store._target.ping = lambda: True
    keeper = LocalActor(LocalKeeper(lambda: service.journal))
    platform = Platform(
        coordinator=coordinator,
        keeper=keeper,  # type: ignore[arg-type]
        documents=documents,
        artifacts=LocalArtifacts(folder / "artifacts"),
        models=LocalModels(models),  # type: ignore[arg-type]
        embedder=embedder,  # type: ignore[arg-type]
        default_model=next(iter(models)),
        **options,
    )
    api = build_api(platform)
    # A defect is an answer of 500 here as it is behind a server, not an exception in the test.
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    http = httpx.AsyncClient(transport=transport, base_url=BASE, timeout=30)

    async def stop() -> None:
        release.set()
        await http.aclose()
        await service.close()

    return Local(service, coordinator, api, http, runtime, release, keeper), stop


@dataclass(frozen=True, slots=True)
class Held:
    """Runs that are on their way to the coordinator, until `go`."""

    sent: asyncio.Event
    go: asyncio.Event


async def all_cancelled(local: Local) -> bool:
    """Whether there is a single run, which was cancelled."""
    runs = await local.json("POST", "/runs/search", json={})
    return [(run["status"], run["reason"]) for run in runs] == [("interrupted", "cancelled")]


class Visitor:
    """A client that sees each piece of an answer as it comes, and can leave in the middle."""

    def __init__(
        self,
        api: FastAPI,
        path: str,
        body: Any = None,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._inbox.put_nowait(
            {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        )
        self.status = 0
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.1"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [
                (b"host", b"127.0.0.1:8000"),
                (b"content-type", b"application/json"),
                *((name.encode(), value.encode()) for name, value in (headers or {}).items()),
            ],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }
        self.task = asyncio.create_task(api(scope, self._inbox.get, self._send))

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message.get("body"):
            await self._pieces.put(message["body"])

    async def see(self, text: str) -> str:
        """Read until `text` came; gives what was read."""
        seen = ""
        async with asyncio.timeout(20):
            while text not in seen:
                seen += (await self._pieces.get() or b"").decode()
        return seen

    async def leave(self) -> None:
        """Close the connection, as a server tells of it."""
        await self._inbox.put({"type": "http.disconnect"})
        async with asyncio.timeout(20):
            await self.task

    async def be_cut(self) -> None:
        """End the request's task, as Serve's replica does."""
        self.task.cancel()
        async with asyncio.timeout(20):
            await asyncio.gather(self.task, return_exceptions=True)
