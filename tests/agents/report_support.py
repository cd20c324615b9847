"""The report's agents on real parts: the embedded model, real document collections, the real sandbox."""

import asyncio
import itertools
import re
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from agents.analyst import Analyst
from agents.base import AgentSetup
from agents.context import LocalArtifacts, LocalCallLog, TaskContext
from agents.planner import Planner
from agents.research import Researcher
from agents.writer import Writer
from manta.ids import RunId, StepKey
from manta.messages import CallScope, ChatChunk, ChatRequest, ModelInfo, Task, Usage, to_json
from manta.protocols import Agent, ChatModel, Documents
from serve_app.engine.embeddings import SentenceEmbedder
from serve_app.engine.engine import Engine, EngineOutput, GenerationRequest, SamplingParams


class EngineModel:
    """The engine in this process as a `ChatModel`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ids = itertools.count()

    async def info(self) -> ModelInfo:
        return ModelInfo(self._engine.model_name, self._engine.context_window)

    async def count_tokens(self, messages: Sequence[Any]) -> int:
        return len(self._prompt(messages))

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        loop = asyncio.get_running_loop()
        outputs: asyncio.Queue[EngineOutput] = asyncio.Queue()
        params = SamplingParams(max_tokens=request.max_tokens or 256, stop=request.stop)
        generation = GenerationRequest(f"g{next(self._ids)}", self._prompt(request.messages), params)
        self._engine.submit(
            generation, lambda out: loop.call_soon_threadsafe(outputs.put_nowait, out) and None
        )
        while True:
            out = await outputs.get()
            usage = (
                Usage(out.input_tokens, out.output_tokens, out.cached_tokens, 1)
                if out.finish_reason
                else None
            )
            yield ChatChunk(out.text, (), out.finish_reason, usage)
            if out.finish_reason:
                return

    def _prompt(self, messages: Sequence[Any]) -> tuple[int, ...]:
        return self._engine.render_chat([{"role": m.role, "content": m.content} for m in messages])


class EngineEmbedder:
    """The embedded sentence embeddings as an `Embedder`."""

    def __init__(self, encoder: SentenceEmbedder) -> None:
        self._encoder = encoder

    @property
    def dimensions(self) -> int:
        return self._encoder.width

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        vectors = await asyncio.to_thread(self._encoder.encode, list(texts))
        return [[float(x) for x in row] for row in vectors]


class Bench:
    """Runs the agents of a report one after the other, as the graph would."""

    def __init__(self, model: ChatModel, documents: Documents, folder: Path) -> None:
        self.model = model
        self.documents = documents
        self.artifacts = LocalArtifacts(folder / "artifacts")
        self.log = LocalCallLog()
        self.usage = Usage()
        self._folder = folder
        self._count = itertools.count()

    async def perform(self, agent: Agent, step: str, given: dict[str, Any]) -> Any:
        workdir = self._folder / f"work{next(self._count)}"
        workdir.mkdir(parents=True)
        task = Task(CallScope(RunId("run"), StepKey(step)), step, given)
        context = TaskContext(
            task,
            model=self.model,
            documents=self.documents,
            artifacts=self.artifacts,
            call_log=self.log,
            workdir=workdir,
        )
        output = await agent.run(context)
        self.usage += context.usage
        return to_json(output)

    async def report(self, question: str, collection: str, data: Sequence[Path]) -> dict[str, Any]:
        refs = [to_json(await self.artifacts.put(path, path.name, "text/csv")) for path in data]
        plan = await self.perform(Planner(AgentSetup("planner")), "plan", {"question": question})
        findings = [
            await self.perform(
                Researcher(AgentSetup("research")),
                f"research[{i}]",
                {"question": q, "collection": collection},
            )
            for i, q in enumerate(plan["questions"])
        ]
        analysis = None
        if refs:
            given = {"question": question, "data": refs}
            analysis = await self.perform(Analyst(AgentSetup("analyst")), "analyse", given)
        given = {"question": question, "findings": findings, "analysis": analysis}
        written: dict[str, Any] = await self.perform(Writer(AgentSetup("writer")), "write", given)
        return {**written, "plan": plan, "findings": findings}


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)
