"""A coordinator in a process of its own, to be killed at a named point: `run_until_killed.py FOLDER`.

Agents are the real host with a scripted model and a tool; both note what they do in the ledger.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from agents.context import LocalArtifacts
from agents.host import AgentHost, HostParts
from coordinator.runtime import LocalRuntime
from coordinator.service import CoordinatorService, Submission
from manta.clock import SystemClock
from manta.errors import NotFound
from manta.faults import note_side_effect
from manta.graph import Names, parse_graph
from manta.ids import DEFAULT_TENANT, RunId
from manta.messages import (
    CallIntent,
    CallOutcome,
    ChatChunk,
    ChatMessage,
    ChatRequest,
    ModelInfo,
    Passage,
    Usage,
)
from manta.protocols import AgentContext

GRAPH = {
    "name": "g",
    "steps": [
        {"id": "ask", "agent": "asker", "for_each": "${input.topics}", "input": {"topic": "${item}"}},
        {"id": "act", "agent": "actor", "needs": ["ask"], "input": {"times": 3}},
    ],
    "output": {"asked": "${steps.ask}", "acted": "${steps.act}"},
}
INPUT = {"topics": ["a", "b"]}
OUTPUT = {"asked": ["A", "B"], "acted": [0, 1, 2]}


class NotingModel:
    async def info(self) -> ModelInfo:
        return ModelInfo("noting", 1000)

    async def count_tokens(self, messages: Any) -> int:
        return 1

    async def stream(self, request: ChatRequest) -> Any:
        text = request.messages[-1].content
        note_side_effect("model_call", text=text)
        yield ChatChunk(text=text.upper())
        yield ChatChunk(finish_reason="stop", usage=Usage(1, 1, model_calls=1))


class OneModel:
    def resolve(self, name: str) -> str:
        return name or "noting"

    def get(self, name: str) -> NotingModel:
        return NotingModel()


class NoDocuments:
    async def search(self, collection: str, query: str, limit: int = 8) -> list[Passage]:
        raise NotFound("no documents here")


class Asker:
    async def run(self, context: AgentContext) -> str:
        request = ChatRequest((ChatMessage("user", context.task.input["topic"]),))
        return "".join([chunk.text async for chunk in context.model.stream(request)])


class Actor:
    async def run(self, context: AgentContext) -> list[int]:
        done = []
        for number in range(context.task.input["times"]):

            async def act(number: int = number) -> int:
                note_side_effect("effect", number=number)
                return number

            done.append(await context.call_tool("act", {"number": number}, act))
        return done


class ServiceCallLog:
    def __init__(self) -> None:
        self.service: CoordinatorService | None = None

    async def begin(self, intent: CallIntent) -> Any:
        assert self.service is not None
        return await self.service.begin_call(intent)

    async def finish(self, outcome: CallOutcome) -> None:
        assert self.service is not None
        await self.service.finish_call(outcome)


async def main(folder: Path) -> None:
    log = ServiceCallLog()
    parts = HostParts(OneModel(), NoDocuments(), LocalArtifacts(folder / "artifacts"), log)
    runtime = LocalRuntime({"asker": AgentHost(Asker(), parts), "actor": AgentHost(Actor(), parts)})
    service = CoordinatorService(
        f"sqlite:///{folder}/journal.db",
        runtime,
        {"g": parse_graph(GRAPH)},
        Names(frozenset({"asker", "actor"}), frozenset()),
        SystemClock(),
        "child",
    )
    log.service = service
    await service.started()
    record = await service.submit(Submission("g", INPUT, DEFAULT_TENANT, idempotency_key="the-run"))
    note_side_effect("acknowledged", run=record.id)
    ended = await service.wait(DEFAULT_TENANT, RunId(record.id), 60)
    note_side_effect("ended", run=record.id, status=ended.status, output=ended.output)
    await service.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
