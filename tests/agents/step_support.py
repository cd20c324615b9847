"""One worker step without a server: a task with options, run on a context with a log that may lose its process."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.base import AgentSetup
from agents.context import LocalArtifacts, LocalCallLog, TaskContext
from agents.worker import Worker
from manta.errors import NotFound
from manta.ids import RunId, StepKey
from manta.messages import CallOutcome, CallScope, Task
from manta.protocols import ChatModel
from tests.agents.loop_support import FewDocuments
from tools.toolbox import Toolbox

RUN = RunId("00000000-0000-4000-8000-000000000002")
STEP = StepKey("step")


class DyingLog(LocalCallLog):
    """Is told the n-th outcome by a process that gets no further; 0 is never."""

    def __init__(self, dies_at: int = 0) -> None:
        super().__init__()
        self.dead = asyncio.Event()
        self._left = dies_at

    async def finish(self, outcome: CallOutcome) -> None:
        self._left -= 1
        if self._left == 0:
            self.dead.set()
            await asyncio.Event().wait()
        await super().finish(outcome)


class StepBench:
    """Runs steps of the worker; further attempts share the log."""

    def __init__(
        self,
        folder: Path,
        model: ChatModel,
        *,
        log: LocalCallLog | None = None,
        tools: Toolbox | None = None,
        others: Mapping[str, ChatModel] | None = None,
        documents: Any = None,
    ) -> None:
        self.log = log or LocalCallLog()
        self.tokens: list[str] = []
        self.replayed: list[bool] = []
        self._folder = folder
        self._model = model
        self._others = dict(others or {})
        self._documents = documents or FewDocuments()
        self._worker = Worker(AgentSetup("worker", tools=tools or Toolbox()))

    def context(
        self, options: Mapping[str, Any], given: Mapping[str, Any] | None = None, attempt: int = 1
    ) -> TaskContext:
        scope = CallScope(RUN, STEP, attempt=attempt)
        return TaskContext(
            Task(scope, "worker", dict(given or {}), model="small", options=dict(options)),
            model=self._model,
            documents=self._documents,
            artifacts=LocalArtifacts(self._folder / "artifacts"),
            call_log=self.log,
            workdir=self._folder,
            token_sink=self.tokens.append,
            observe=lambda done: self.replayed.append(done.replayed),
            find_model=self._find,
        )

    async def run(
        self, options: Mapping[str, Any], given: Mapping[str, Any] | None = None, attempt: int = 1
    ) -> Any:
        return await self._worker.run(self.context(options, given, attempt))

    async def die(self, options: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> None:
        """Run a step until its log's process is dead; nothing of it goes on."""
        assert isinstance(self.log, DyingLog)
        work = asyncio.ensure_future(self.run(options, given))
        async with asyncio.timeout(10):
            await self.log.dead.wait()
        work.cancel()
        await asyncio.wait({work})
        assert work.cancelled()

    def _find(self, name: str) -> ChatModel:
        if name not in self._others:
            raise NotFound(f"there is no model {name!r}", code="model_not_found")
        return self._others[name]
