"""An agent's context that also remembers what its tools returned, replayed or not."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manta.messages import Task, Usage
from manta.protocols import AgentContext, Artifacts, ChatModel, Documents


@dataclass(frozen=True, slots=True)
class SeenCall:
    name: str
    arguments: dict[str, Any]
    result: Any


class WatchingContext:
    """Passes everything on to the context it wraps; `seen` has each tool call that succeeded, in order."""

    def __init__(self, inner: AgentContext) -> None:
        self._inner = inner
        self.seen: list[SeenCall] = []

    @property
    def task(self) -> Task:
        return self._inner.task

    @property
    def model(self) -> ChatModel:
        return self._inner.model

    def model_named(self, name: str) -> ChatModel:
        return self._inner.model_named(name)

    @property
    def documents(self) -> Documents:
        return self._inner.documents

    @property
    def artifacts(self) -> Artifacts:
        return self._inner.artifacts

    @property
    def workdir(self) -> Path:
        return self._inner.workdir

    @property
    def usage(self) -> Usage:
        return self._inner.usage

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any],
        run: Callable[[], Awaitable[Any]],
        *,
        idempotent: bool = True,
        call_id: str | None = None,
    ) -> Any:
        result = await self._inner.call_tool(name, arguments, run, idempotent=idempotent, call_id=call_id)
        self.seen.append(SeenCall(name, dict(arguments), result))
        return result

    def emit_token(self, text: str) -> None:
        self._inner.emit_token(text)
