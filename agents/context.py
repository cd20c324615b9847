"""What an agent holds while it works on one task, and a log and a file store that need no server."""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents.recording import (
    CallDone,
    CallObserver,
    RecordedModel,
    RecordedTools,
    RetryPolicy,
    in_recorded_tool,
)
from manta.clock import Clock
from manta.errors import NotFound, OutcomeUnknown, StaleEpoch, StepError
from manta.messages import (
    ArtifactRef,
    CallIntent,
    CallOutcome,
    CallScope,
    Passage,
    RecordedCall,
    Task,
    Usage,
    from_json,
)
from manta.protocols import Artifacts, CallLog, ChatModel, Documents, TokenSink

BLOCK_BYTES = 1 << 20


def _no_tokens(text: str) -> None:
    """The sink of those who do not watch."""


class _RecordedDocuments:
    """Searches under the record: collections may change between two tries, what a step has read may not."""

    def __init__(self, inner: Documents, tools: RecordedTools) -> None:
        self._inner = inner
        self._tools = tools

    async def search(self, collection: str, query: str, limit: int = 8) -> list[Passage]:
        if in_recorded_tool():  # A tool that searches: its own record covers the search.
            return await self._inner.search(collection, query, limit)

        async def run() -> list[Passage]:
            return await self._inner.search(collection, query, limit)

        arguments = {"collection": collection, "query": query, "limit": limit}
        found = await self._tools.call("search_documents", arguments, run)
        return [from_json(Passage, passage) for passage in found]


class TaskContext:
    """An `AgentContext` for one attempt at one task.

    Args:
        workdir: an existing scratch folder; whoever made it removes it.
        token_sink: told of each piece of text the agent wants watchers to see.
        observe: told of each model and tool call that has its outcome.
    """

    def __init__(
        self,
        task: Task,
        *,
        model: ChatModel,
        documents: Documents,
        artifacts: Artifacts,
        call_log: CallLog,
        workdir: Path,
        token_sink: TokenSink = _no_tokens,
        observe: CallObserver | None = None,
        clock: Clock | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._task = task
        self._artifacts = artifacts
        self._workdir = workdir
        self._token_sink = token_sink
        self._observe = observe
        self._usage = Usage()
        self._model = RecordedModel(model, call_log, task, clock=clock, retry=retry, observe=self._note)
        self._tools = RecordedTools(call_log, task.scope, observe=self._note)
        self._documents = _RecordedDocuments(documents, self._tools)

    @property
    def task(self) -> Task:
        return self._task

    @property
    def model(self) -> ChatModel:
        return self._model

    @property
    def documents(self) -> Documents:
        return self._documents

    @property
    def artifacts(self) -> Artifacts:
        return self._artifacts

    @property
    def workdir(self) -> Path:
        return self._workdir

    @property
    def usage(self) -> Usage:
        """The sum over all calls so far. Replayed ones count: the run paid for them once."""
        return self._usage

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any],
        run: Callable[[], Awaitable[Any]],
        *,
        idempotent: bool = True,
        call_id: str | None = None,
    ) -> Any:
        return await self._tools.call(name, arguments, run, idempotent=idempotent, call_id=call_id)

    def emit_token(self, text: str) -> None:
        self._token_sink(text)

    def _note(self, done: CallDone) -> None:
        self._usage += done.usage
        if self._observe is not None:
            self._observe(done)


class LocalCallLog:
    """A `CallLog` in memory, by the journal's rules: for tests, examples, agents run without a platform."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str], dict[str, RecordedCall]] = {}
        self._owner: dict[tuple[str, str], tuple[int, int]] = {}

    async def begin(self, intent: CallIntent) -> RecordedCall | None:
        calls = self._welcome(intent.scope)
        known = calls.get(intent.key)
        if known is not None and known.state == "done":
            return known
        if known is not None and known.state == "unknown" and not intent.idempotent:
            raise OutcomeUnknown(
                f"the tool {intent.name} was begun by an earlier attempt and its outcome is not known",
                fix="find out whether it took effect; it is not repeated by itself",
            )
        calls[intent.key] = RecordedCall(intent.key, intent.kind, intent.name, intent.request_hash, "intent")
        return None

    async def finish(self, outcome: CallOutcome) -> None:
        calls = self._welcome(outcome.scope)
        if outcome.key not in calls or calls[outcome.key].state == "unknown":
            raise StepError(f"the call {outcome.key} was never begun", fix="begin a call before finishing it")
        calls[outcome.key] = replace(
            calls[outcome.key],
            state="done",
            response=outcome.response,
            error=outcome.error,
            usage=outcome.usage,
        )

    def calls(self, scope: CallScope) -> list[RecordedCall]:
        """The calls of a step in the order in which they were first begun."""
        return list(self._calls.get((scope.run, scope.step), {}).values())

    def _welcome(self, scope: CallScope) -> dict[str, RecordedCall]:
        step, claim = (scope.run, scope.step), (scope.epoch, scope.attempt)
        if claim < self._owner.get(step, claim):
            raise StaleEpoch(f"step {scope.step} was given to another attempt", fix="stop this one")
        calls = self._calls.setdefault(step, {})
        if claim > self._owner.get(step, claim):
            for key, call in calls.items():
                if call.state == "intent":
                    calls[key] = replace(call, state="unknown")
        self._owner[step] = claim
        return calls


class LocalArtifacts:
    """`Artifacts` in a folder: a file lies at `ab/cd/<sha256>` and is on the disk before `put` returns."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, path: Path, name: str, media_type: str) -> ArtifactRef:
        """Keep a copy of the file at `path`. Raises OSError if it cannot be read or written."""
        digest, size = await asyncio.to_thread(self._store, path)
        return ArtifactRef(name, digest, size, media_type)

    async def get(self, ref: ArtifactRef) -> bytes:
        """The file's bytes.

        Raises:
            NotFound: it is not here.
            StepError: it is not what was put.
        """
        return await asyncio.to_thread(self._load, ref)

    def place(self, sha256: str) -> Path:
        """Where a file of this hash lies, or would lie."""
        if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            raise NotFound(
                f"{sha256[:80]!r} is not the SHA-256 of a file", fix="take it from a run's artifacts"
            )
        return self._folder / sha256[:2] / sha256[2:4] / sha256

    def _store(self, path: Path) -> tuple[str, int]:
        self._folder.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with path.open("rb") as source, tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as copy:
            try:
                while block := source.read(BLOCK_BYTES):
                    digest.update(block)
                    size += copy.write(block)
                copy.flush()
                os.fsync(copy.fileno())
                target = self.place(digest.hexdigest())
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(copy.name, target)
            except BaseException:
                Path(copy.name).unlink(missing_ok=True)
                raise
        for folder in (target.parent, target.parent.parent, self._folder):
            _sync_folder(folder)
        return digest.hexdigest(), size

    def _load(self, ref: ArtifactRef) -> bytes:
        try:
            data = self.place(ref.sha256).read_bytes()
        except FileNotFoundError:
            raise NotFound(
                f"the file {ref.name} ({ref.sha256[:12]}) is not stored here", fix="upload it again"
            ) from None
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            raise StepError(
                f"the stored file {ref.name} ({ref.sha256[:12]}) is damaged", fix="upload it again"
            )
        return data


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
