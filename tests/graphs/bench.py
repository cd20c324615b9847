"""A coordinator in this process with the built-in agents on it, and a model of the test's choosing behind them."""

import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import coordinator
from agents.catalog import load_agent
from agents.context import LocalArtifacts
from agents.host import AgentHost, HostParts
from agents.scripted import ScriptedModel, ScriptedStep
from coordinator.runtime import LocalRuntime
from coordinator.service import CoordinatorService
from coordinator.store.records import RunRecord
from coordinator.submission import Submission
from manta.clock import SystemClock
from manta.config import Settings
from manta.errors import NotFound
from manta.graph import Graph, Names, embed, load_graph
from manta.ids import DEFAULT_TENANT, RunId
from manta.messages import CallIntent, CallOutcome, ChatChunk, ChatRequest, ModelInfo, Passage, RecordedCall
from manta.protocols import ChatModel

T = DEFAULT_TENANT
FOLDER = Path(coordinator.__file__).parent / "graphs"


def ready_graphs() -> dict[str, Graph]:
    graphs = {path.stem: load_graph(path) for path in sorted(FOLDER.glob("*.yaml"))}
    return {name: embed(graph, graphs) for name, graph in graphs.items()}


class AnsweringModel:
    """Answers by a function of the request; counts tokens as words, and keeps what it was asked."""

    def __init__(
        self,
        answer: Callable[[ChatRequest], str],
        *,
        abilities: tuple[str, ...] = (),
        context_window: int = 4096,
    ) -> None:
        self._answer = answer
        self._info = ModelInfo("answering", context_window, abilities)
        self.requests: list[ChatRequest] = []

    async def info(self) -> ModelInfo:
        return self._info

    async def count_tokens(self, messages: Sequence[Any]) -> int:
        return sum(len(re.findall(r"\S+", message.content)) + 1 for message in messages)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        self.requests.append(request)
        step = ScriptedStep(text=self._answer(request))
        inner = ScriptedModel([step], context_window=self._info.context_window)
        async for chunk in inner.stream(request):
            yield chunk

    def asked(self, words: str) -> list[ChatRequest]:
        """Those requests whose last message has these words."""
        return [request for request in self.requests if words in request.messages[-1].content]


class Library:
    """Document collections in memory; a search finds passages that share words with the query."""

    def __init__(self, collections: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self._collections = dict(collections or {})

    async def names(self, collection: str) -> list[str]:
        return sorted(self._of(collection))

    async def text(self, collection: str, document: str) -> str:
        return self._of(collection)[document]

    async def search(self, collection: str, query: str, limit: int = 8) -> list[Passage]:
        wanted = set(re.findall(r"\w{4,}", query.lower()))
        found = []
        for name, text in self._of(collection).items():
            start = 0
            for part in text.split("\n\n"):
                score = len(wanted & set(re.findall(r"\w{4,}", part.lower())))
                if score:
                    found.append(
                        Passage(f"{name}-{start}", name, start, start + len(part), part, float(score))
                    )
                start += len(part) + 2
        return sorted(found, key=lambda passage: -passage.score)[:limit]

    def _of(self, collection: str) -> Mapping[str, str]:
        if collection not in self._collections:
            raise NotFound(f"there is no collection {collection!r}")
        return self._collections[collection]


class _OneModel:
    def __init__(self, model: ChatModel) -> None:
        self._model = model

    def resolve(self, name: str) -> str:
        return name or "small"

    def get(self, name: str) -> ChatModel:
        return self._model


class _ServiceLog:
    """The coordinator's record of calls, as agents reach it."""

    def __init__(self) -> None:
        self.service: CoordinatorService | None = None

    async def begin(self, intent: CallIntent) -> RecordedCall | None:
        assert self.service is not None
        return await self.service.begin_call(intent)

    async def finish(self, outcome: CallOutcome) -> None:
        assert self.service is not None
        await self.service.finish_call(outcome)


class GraphBench:
    """Runs graphs to their end. Use it as an async context manager."""

    def __init__(
        self,
        folder: Path,
        model: ChatModel,
        *,
        library: Library | None = None,
        graphs: Mapping[str, Graph] | None = None,
        tools: Mapping[str, str] | None = None,
        patience_s: float = 60,
    ) -> None:
        self._patience_s = patience_s
        log = _ServiceLog()
        parts = HostParts(
            _OneModel(model), library or Library(), LocalArtifacts(folder / "files"), lambda task: log
        )
        agents = Settings().agents
        hosts = {
            name: AgentHost(load_agent(name, settings, tools=tools), parts, concurrency=settings.concurrency)
            for name, settings in agents.items()
        }
        self.service = CoordinatorService(
            f"sqlite:///{folder}/journal.db",
            LocalRuntime(hosts),
            graphs or ready_graphs(),
            Names(frozenset(agents), frozenset(tools or {})),
            SystemClock(),
            "bench",
        )
        log.service = self.service

    async def __aenter__(self) -> "GraphBench":
        await self.service.started()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.service.close()

    async def run(self, graph: str, given: Any, **more: Any) -> RunRecord:
        record = await self.service.submit(Submission(graph, given, T, **more))
        return await self.service.wait(T, RunId(record.id), self._patience_s)

    async def output(self, graph: str, given: Any, **more: Any) -> Any:
        record = await self.run(graph, given, **more)
        assert record.status == "success", (record.status, record.reason, record.error)
        return record.output

    async def steps(self, run: str) -> dict[str, str]:
        """The states of a run's executions by key."""
        _, steps = await self.service.get(T, RunId(run))
        return {step.key: step.state for step in steps}
