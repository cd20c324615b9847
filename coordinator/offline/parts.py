"""What agents reach during a replay: only what the record has, and files that are still stored."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.call_keys import messages_hash
from manta.errors import StepError
from manta.messages import ArtifactRef, ChatChunk, ChatRequest, ModelInfo, Passage, from_json
from manta.protocols import Artifacts

Refuse = Callable[[str], StepError]
"""Notes that the agent wants what is not recorded, and makes the error of it."""


class NotedModel:
    """A model of which only what agents asked about it is known; its answers come from the record."""

    def __init__(self, name: str, notes: Mapping[str, Mapping[str, Any]], refuse: Refuse) -> None:
        self._name = name
        self._notes = notes
        self._refuse = refuse

    async def info(self) -> ModelInfo:
        noted = self._notes["info"].get(self._name)
        if noted is None:
            raise self._refuse(f"the agent asks what the model {self._name!r} can do, which is not recorded")
        return from_json(ModelInfo, noted)

    async def count_tokens(self, messages: Sequence[Any]) -> int:
        count = self._notes["counts"].get(messages_hash(self._name, messages))
        if count is None:
            asked = " ".join(str(getattr(message, "content", "")) for message in messages)
            raise self._refuse(f"the agent counts the tokens of a text that is not recorded: {asked[:300]!r}")
        return int(count)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        raise self._refuse("the agent asks a model past its record")
        yield ChatChunk()


class NotedModels:
    """Any model, by name."""

    def __init__(self, default: str, notes: Mapping[str, Mapping[str, Any]], refuse: Refuse) -> None:
        self._default = default
        self._notes = notes
        self._refuse = refuse

    def resolve(self, name: str) -> str:
        return name or self._default

    def get(self, name: str) -> NotedModel:
        return NotedModel(self.resolve(name), self._notes, self._refuse)


class NoDocuments:
    """Searches are recorded like tools; nothing may come here."""

    def __init__(self, refuse: Refuse) -> None:
        self._refuse = refuse

    async def search(self, collection: str, query: str, limit: int = 8) -> list[Passage]:
        raise self._refuse(f"the agent searches {collection!r} past its record")

    async def names(self, collection: str) -> list[str]:
        raise self._refuse(f"the agent lists {collection!r} past its record")

    async def text(self, collection: str, document: str) -> str:
        raise self._refuse(f"the agent reads {document!r} past its record")


class StoredFiles:
    """Files are read from where they are kept; what an agent makes is named by its content and not kept."""

    def __init__(self, kept: Artifacts) -> None:
        self._kept = kept

    async def put(self, path: Path, name: str, media_type: str) -> ArtifactRef:
        data = await asyncio.to_thread(path.read_bytes)
        return ArtifactRef(name, hashlib.sha256(data).hexdigest(), len(data), media_type)

    async def get(self, ref: ArtifactRef) -> bytes:
        return await self._kept.get(ref)
