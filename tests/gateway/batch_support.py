"""What the tests of batches share: files of requests, a batch followed to its end, its files read."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from manta.messages import ChatChunk, ChatRequest, ModelInfo
from tests.gateway.openai_support import USAGE
from tests.gateway.platform import Local

CHAT = "/v1/chat/completions"
BATCHES = "/v1/batches"
ENDS = {"completed", "failed", "expired", "cancelled"}


class Repeats:
    """A model that says what it was told last. `before` is awaited, or raises, before each answer."""

    def __init__(self, before: Callable[[ChatRequest], Any] | None = None) -> None:
        self.before = before
        self.requests: list[ChatRequest] = []
        self.running = 0
        self.most = 0

    async def info(self) -> ModelInfo:
        return ModelInfo("repeats", 4096)

    async def count_tokens(self, messages: Sequence[object]) -> int:
        return len(messages)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        self.requests.append(request)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0)
            if self.before is not None:
                waited = self.before(request)
                if asyncio.iscoroutine(waited):
                    await waited
            yield ChatChunk(said(request))
            yield ChatChunk(finish_reason="stop", usage=USAGE)
        finally:
            self.running -= 1


def said(request: ChatRequest) -> str:
    return request.prompt or request.messages[-1].content


def line(custom_id: str, text: str = "hello", url: str = CHAT, **body: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {**told, **body}}


def jsonl(*lines: Any) -> bytes:
    return "".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in lines).encode()


async def uploaded(local: Local, content: bytes) -> str:
    files = {"file": ("requests.jsonl", content)}
    made = await local.json("POST", "/v1/files", files=files, data={"purpose": "batch"})
    return str(made["id"])


async def begun(local: Local, content: bytes, endpoint: str = CHAT, **more: Any) -> dict[str, Any]:
    body = {"input_file_id": await uploaded(local, content), "endpoint": endpoint, "completion_window": "24h"}
    made: dict[str, Any] = await local.json("POST", BATCHES, json={**body, **more})
    return made


async def over(local: Local, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch at its end."""
    await local.json("GET", f"/runs/{batch['id'].removeprefix('batch_')}/wait")
    told: dict[str, Any] = await local.json("GET", f"{BATCHES}/{batch['id']}")
    assert told["status"] in ENDS, told
    return told


async def results(local: Local, file_id: str | None) -> dict[str, dict[str, Any]]:
    """The lines of a file by their custom ids; its told size is right."""
    assert file_id is not None
    content = (await local.http.get(f"/v1/files/{file_id}/content")).content
    assert (await local.json("GET", f"/v1/files/{file_id}"))["bytes"] == len(content)
    found = [json.loads(one) for one in content.splitlines()]
    assert len({one["id"] for one in found}) == len(found)
    return {one["custom_id"]: one for one in found}
