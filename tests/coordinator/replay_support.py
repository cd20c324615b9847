"""Records runs on a real journal, and replays them from it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.context import LocalArtifacts
from agents.host import HostParts
from agents.hosting import Hosting
from agents.scripted import ScriptedModel
from coordinator.offline.driver import Replayed
from coordinator.offline.recording import Recording, read_recording
from coordinator.replay import replay_recording
from coordinator.runtime import LocalRuntime
from coordinator.service import CoordinatorService, Submission
from coordinator.store.read_only import reading
from manta.clock import SystemClock
from manta.config import AgentSettings, SandboxSettings, SearchSettings, Settings
from manta.graph import Names, parse_graph
from manta.ids import DEFAULT_TENANT, RunId
from manta.messages import CallIntent, CallOutcome, RecordedCall, Task
from manta.protocols import ChatModel

HERE = "tests.coordinator.replay_agents"


class _ServiceLog:
    def __init__(self) -> None:
        self.service: CoordinatorService | None = None

    def of(self, task: Task) -> "_ServiceLog":
        return self

    async def begin(self, intent: CallIntent) -> RecordedCall | None:
        assert self.service is not None
        return await self.service.begin_call(intent)

    async def finish(self, outcome: CallOutcome) -> None:
        assert self.service is not None
        await self.service.finish_call(outcome)


class _OneModel:
    def __init__(self, model: ChatModel) -> None:
        self._model = model

    def resolve(self, name: str) -> str:
        return name or "smollm2"

    def get(self, name: str) -> ChatModel:
        return self._model


class _NoDocuments:
    async def search(self, collection: str, query: str, limit: int = 8) -> list[Any]:
        return []

    async def names(self, collection: str) -> list[str]:
        return []

    async def text(self, collection: str, document: str) -> str:
        return ""


class Bench:
    """A folder with a journal, and a coordinator on it as long as one is needed."""

    def __init__(self, folder: Path, graph: Mapping[str, Any], agents: Mapping[str, AgentSettings]) -> None:
        self.settings = Settings(home=folder, agents={**agents, "worker": AgentSettings()})
        self.graph = parse_graph({"name": "g", **graph})
        self._log = _ServiceLog()
        self.service: CoordinatorService | None = None

    async def open(self, model: ChatModel | None = None) -> CoordinatorService:
        settings = self.settings
        files = LocalArtifacts(settings.home / "artifacts")
        parts = HostParts(_OneModel(model or ScriptedModel([])), _NoDocuments(), files, self._log.of)
        hosting = Hosting(settings.agents, {}, SearchSettings(), SandboxSettings(), lambda: parts)
        names = {step.agent or "worker" for step in self.graph.all_steps()}
        self.service = CoordinatorService(
            settings.journal_url,
            LocalRuntime({name: hosting.host(name) for name in names}),
            {"g": self.graph},
            Names(frozenset(settings.agents), frozenset()),
            SystemClock(),
            "me",
        )
        self._log.service = self.service
        await self.service.started()
        return self.service

    async def close(self) -> None:
        if self.service is not None:
            await self.service.close()
            self.service = None

    async def record(self, value: Any, model: ChatModel | None = None, **more: Any) -> RunId:
        """Run the graph to its end, or to where it waits for a person."""
        service = await self.open(model)
        run = await service.submit(Submission("g", value, DEFAULT_TENANT, **more))
        await service.wait(DEFAULT_TENANT, RunId(run.id), 30)
        await self.close()
        return RunId(run.id)

    def recording(self, run: RunId) -> Recording:
        with reading(self.settings.journal_url) as connection:
            return read_recording(connection, run)

    async def replay(self, run: RunId, **changed: AgentSettings) -> Replayed:
        """With some agents changed."""
        agents = {**self.settings.agents, **changed}
        settings = self.settings.model_copy(update={"agents": agents})
        return await replay_recording(self.recording(run), settings)

    async def replay_present_graph(self, run: RunId) -> Replayed:
        """With this bench's graph, as its file would have it, in place of the recorded one."""
        file = self.settings.home / "g.yaml"
        file.write_text(json.dumps(self.graph.model_dump(mode="json")))
        settings = self.settings.model_copy(update={"graphs": {"g": "g.yaml"}, "project": self.settings.home})
        return await replay_recording(self.recording(run), settings, "current")


def an_agent(name: str, **options: Any) -> AgentSettings:
    return AgentSettings(use=f"{HERE}:{name}", options=options)
