"""What the fault tests run: graphs that meet every kill point, and agents that note what they do outside the store.

A line of the ledger with the kind `call` is a side effect that really happened; `hash` is the request's, by which
the journal knows the call.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from agents.base import AgentSetup
from agents.call_keys import request_body, request_hash
from agents.context import LocalArtifacts
from agents.host import AgentHost, HostParts
from agents.worker import WORKER, Worker
from coordinator.runtime import LocalRuntime
from manta.config import ledger_file
from manta.errors import ModelError, NotFound
from manta.faults import note_side_effect, read_ledger
from manta.graph import Graph, Names, parse_graph
from manta.ids import Tenant
from manta.messages import ChatChunk, ChatMessage, ChatRequest, ModelInfo, Passage, Task, Usage
from manta.protocols import AgentContext, CallLog
from tools.toolbox import Toolbox, tool

TENANTS = (Tenant("acme"), Tenant("globex"))
TOPICS = ("air", "sea")
NOW_AND_THEN = {"attempts": 4, "min_s": 0, "max_s": 0}

EVERYTHING: dict[str, Any] = {
    "budget": {"model_calls": 60, "tool_calls": 60, "tokens": 4000},
    "steps": [
        {
            "id": "ask",
            "agent": "asker",
            "for_each": "${input.topics}",
            "max_parallel": 2,
            "input": {"topic": "${item}"},
        },
        {
            "id": "grow",
            "agent": "counter",
            "input": {"n": "${previous.n}"},
            "repeat": {"until": "${output.n >= `3`}", "max": 5},
        },
        {
            "id": "angles",
            "for_each": "${input.topics}",
            "input": {"topic": "${item}"},
            "graph": {
                "steps": [
                    {"id": "draft", "agent": "asker", "input": {"topic": "draft of ${input.topic}"}},
                    {"id": "keep", "tool": "keep", "input": {"text": "${steps.draft}"}},
                ]
            },
        },
        {"id": "stumble", "agent": "stumbler", "retry": NOW_AND_THEN},
        {"id": "check", "approval": {"question": "Go on?", "show": "${steps.ask}"}, "needs": ["grow"]},
        {
            "id": "act",
            "agent": "actor",
            "needs": ["check", "stumble", "angles"],
            "input": {"times": 2},
        },
        {"id": "never", "agent": "asker", "when": "${steps.grow.n > `100`}", "input": {"topic": "no"}},
        {"id": "say", "prompt": {"text": "say ${input.topics[0]}", "max_tokens": 9}, "needs": ["act"]},
    ],
    "output": {
        "messages": [{"role": "assistant", "content": "${steps.say}"}],
        "asked": "${steps.ask}",
        "kept": "${steps.angles}",
        "n": "${steps.grow.n}",
        "acted": "${steps.act}",
        "never": "${steps.never}",
    },
}
PLAIN: dict[str, dict[str, Any]] = {
    "everything": EVERYTHING,
    # Works on what the run before it left on their thread.
    "follow": {"steps": [{"id": "reply", "agent": "asker", "input": {"topic": "${thread.messages[-1].content}"}}]},
    # Goes on until it is cancelled.
    "hang": {"steps": [{"id": "wait", "agent": "hanger"}]},
    # Fails until it is mended.
    "broken": {
        "steps": [
            {"id": "first", "agent": "asker", "input": {"topic": "${input.topic}"}},
            {"id": "fall", "agent": "faller", "needs": ["first"]},
        ]
    },
    "tick": {"steps": [{"id": "reply", "agent": "asker", "input": {"topic": "${input.topic}"}}]},
    # One step after another, each waiting until its gate is there: time for something to happen to the process.
    "gated": {
        "steps": [
            {"id": "one", "agent": "gatekeeper", "input": {"gate": "${input.gate}"}},
            {"id": "two", "agent": "actor", "input": {"times": 1}, "needs": ["one"]},
        ]
    },
    "deadly": {"steps": [{"id": "die", "agent": "killer"}]},
}  # fmt: skip


def graphs() -> dict[str, Graph]:
    return {name: parse_graph({"name": name, **graph}) for name, graph in PLAIN.items()}


def topics(tenant: str) -> list[str]:
    """Each tenant's are its own, so that what one sees of another shows."""
    return [f"{tenant}-{topic}" for topic in TOPICS]


def expected(tenant: str, say: str | None = None) -> dict[str, Any]:
    """The output of `everything`."""
    own = topics(tenant)
    return {
        "messages": [{"role": "assistant", "content": (say or f"say {own[0]}").upper()}],
        "asked": [topic.upper() for topic in own],
        "kept": [f"DRAFT OF {topic}".upper() for topic in own],
        "n": 3,
        "acted": [0, 1],
        "never": None,
    }


def happened(kind: str, **facts: Any) -> bool:
    """Whether the ledger has such a line; it outlives the processes."""
    path = ledger_file()
    assert path is not None
    lines = (line for line in read_ledger(path) if line["kind"] == kind)
    return any(all(line.get(name) == fact for name, fact in facts.items()) for line in lines)


def _note_call(context: Any, name: str, arguments: Mapping[str, Any]) -> None:
    scope = context.task.scope
    digest = request_hash({"name": name, "arguments": dict(arguments)})
    own = {"run": scope.run, "step": scope.step, "epoch": scope.epoch, "tenant": scope.tenant}
    note_side_effect("call", name=name, hash=digest, arguments=dict(arguments), **own)


class NotingModel:
    """Answers in capitals."""

    async def info(self) -> ModelInfo:
        return ModelInfo("noting", 1000)

    async def count_tokens(self, messages: Any) -> int:
        return 1

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk]:
        hints, digest = request.hints, request_hash(request_body(request))
        note_side_effect("call", name="model", hash=digest, run=hints.run, step=hints.step, epoch=hints.epoch)
        yield ChatChunk(text=request.messages[-1].content.upper())
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
        request = ChatRequest((ChatMessage("user", context.task.input["topic"]),), max_tokens=9)
        return "".join([chunk.text async for chunk in context.model.stream(request)])


async def _effect(context: AgentContext, name: str, arguments: dict[str, Any], *, idempotent: bool) -> Any:
    async def act() -> Any:
        _note_call(context, name, arguments)
        return arguments

    return await context.call_tool(name, arguments, act, idempotent=idempotent)


class Counter:
    async def run(self, context: AgentContext) -> dict[str, int]:
        number = int(context.task.input.get("n") or 0) + 1
        await _effect(context, "count", {"n": number}, idempotent=True)
        return {"n": number}


class Stumbler:
    """Calls a tool, then fails at its run's first try."""

    async def run(self, context: AgentContext) -> str:
        await _effect(context, "step_out", {}, idempotent=True)
        run = context.task.scope.run
        if not happened("stumbled", run=run):
            note_side_effect("stumbled", run=run)
            raise ModelError("fell over a stone")
        return "up again"


class Actor:
    """Does what must not be done twice."""

    async def run(self, context: AgentContext) -> list[int]:
        times = context.task.input["times"]
        done = [await _effect(context, "act", {"number": n}, idempotent=False) for n in range(times)]
        return [arguments["number"] for arguments in done]


class Hanger:
    async def run(self, context: AgentContext) -> None:
        await _effect(context, "hang", {}, idempotent=True)
        await asyncio.Event().wait()


class Faller:
    async def run(self, context: AgentContext) -> str:
        if not happened("mended", run=context.task.scope.run):
            raise NotFound("something is missing", fix="mend it and resume the run")
        return "whole"


class Gatekeeper:
    async def run(self, context: AgentContext) -> str:
        gate = Path(context.task.input["gate"])
        await _effect(context, "wait", {}, idempotent=True)
        while not gate.exists():
            await asyncio.sleep(0.02)
        await _effect(context, "pass", {}, idempotent=False)
        return "open"


class Killer:
    """Takes its process along, each time, until there is a file `mended` beside the ledger."""

    async def run(self, context: AgentContext) -> str:
        ledger = ledger_file()
        assert ledger is not None
        if not (ledger.parent / "mended").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return "harmless"


@tool
def keep(text: str, context: Any) -> str:
    """Keep a text."""
    _note_call(context, "keep", {"text": text})
    return text


AGENTS: dict[str, Any] = {
    "asker": Asker(),
    "counter": Counter(),
    "stumbler": Stumbler(),
    "actor": Actor(),
    "hanger": Hanger(),
    "faller": Faller(),
    "gatekeeper": Gatekeeper(),
    "killer": Killer(),
    WORKER: Worker(AgentSetup(WORKER, tools=Toolbox([keep]))),
}
NAMES = Names(frozenset(AGENTS), frozenset({"keep"}))


def runtime(folder: Path, log: CallLog, concurrency: int = 4) -> LocalRuntime:
    """All agents in this process; their calls are recorded in `log`."""

    def log_of(task: Task) -> CallLog:
        return log

    parts = HostParts(OneModel(), NoDocuments(), LocalArtifacts(folder / "artifacts"), log_of)
    return LocalRuntime(
        {name: AgentHost(agent, parts, concurrency=concurrency) for name, agent in AGENTS.items()}
    )
