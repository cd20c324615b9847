"""What an agent holds while it works on one task, and a log and a file store that need no server."""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from agents.recorded_model import RecordedModel, RetryPolicy
from agents.recording import CallDone, CallObserver, RecordedTools, Recorder, in_recorded_tool
from manta.clock import Clock
from manta.errors import MantaError, NotFound, OutcomeUnknown, StaleEpoch, StepError, error_from_json
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


def _no_other_model(name: str) -> ChatModel:
    raise NotFound(f"there is no model {name!r} here", fix="add it under models", code="model_not_found")


class _RecordedDocuments:
    """Searches under the record: collections may change between two tries, what a step has read may not."""

    def __init__(self, inner: Documents, tools: RecordedTools) -> None:
        self._inner = inner
        self._tools = tools

    async def search(self, collection: str, query: str, limit: int = 8) -> list[Passage]:
        arguments = {"collection": collection, "query": query, "limit": limit}

        async def run() -> list[Passage]:
            return await self._inner.search(collection, query, limit)

        found = await self._once("search_documents", arguments, run)
        return [p if isinstance(p, Passage) else from_json(Passage, p) for p in found]

    async def names(self, collection: str) -> list[str]:
        arguments = {"collection": collection}
        names: list[str] = await self._once(
            "list_documents", arguments, lambda: self._inner.names(collection)
        )
        return names

    async def text(self, collection: str, document: str) -> str:
        arguments = {"collection": collection, "document": document}
        return str(
            await self._once("read_document", arguments, lambda: self._inner.text(collection, document))
        )

    async def _once(self, name: str, arguments: dict[str, Any], run: Callable[[], Awaitable[Any]]) -> Any:
        # Within a tool of its own record, that record covers what is read.
        return await run() if in_recorded_tool() else await self._tools.call(name, arguments, run)


class TaskContext:
    """An `AgentContext` for one attempt at one task.

    Args:
        workdir: a scratch folder, or what makes one on first use; whoever gave it removes it.
        token_sink: told of each piece of text the agent wants watchers to see.
        observe: told of each model and tool call that has its outcome.
        find_model: other models by name; raises NotFound.
    """

    def __init__(
        self,
        task: Task,
        *,
        model: ChatModel,
        documents: Documents,
        artifacts: Artifacts,
        call_log: CallLog,
        workdir: Path | Callable[[], Path],
        token_sink: TokenSink = _no_tokens,
        observe: CallObserver | None = None,
        clock: Clock | None = None,
        retry: RetryPolicy | None = None,
        find_model: Callable[[str], ChatModel] = _no_other_model,
    ) -> None:
        self._task = task
        self._artifacts = artifacts
        self._workdir = workdir
        self._token_sink = token_sink
        self._observe = observe
        self._usage = Usage()
        self._clock = clock
        self._retry = retry
        self._find_model = find_model
        self._recorder = Recorder(call_log, task, observe=self._note)
        self._models = {task.model: self._recorded(model, task.model)}
        self._tools = RecordedTools(self._recorder)
        self._documents = _RecordedDocuments(documents, self._tools)

    @property
    def task(self) -> Task:
        return self._task

    @property
    def model(self) -> ChatModel:
        return self._models[self._task.model]

    def model_named(self, name: str) -> ChatModel:
        """Raises NotFound."""
        name = name or self._task.model
        if name not in self._models:
            self._models[name] = self._recorded(self._find_model(name), name)
        return self._models[name]

    def _recorded(self, model: ChatModel, name: str) -> RecordedModel:
        return RecordedModel(model, self._recorder, name, clock=self._clock, retry=self._retry)

    @property
    def documents(self) -> Documents:
        return self._documents

    @property
    def artifacts(self) -> Artifacts:
        return self._artifacts

    @property
    def workdir(self) -> Path:
        if not isinstance(self._workdir, Path):
            self._workdir = self._workdir()
        return self._workdir

    @property
    def usage(self) -> Usage:
        """The sum over all calls so far. Replayed ones count: the run paid for them once."""
        return self._usage

    @property
    def verdict(self) -> MantaError | None:
        """What ends the task whatever the agent makes of it: a call that was refused."""
        return self._recorder.verdict

    @property
    def unknown_call(self) -> str | None:
        """The key of the call that a person has to decide on."""
        return self._recorder.unknown_call

    def take_notes(self) -> dict[str, Any] | None:
        """What a replay needs and no call took along."""
        return self._recorder.take_notes()

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


@dataclass(frozen=True, slots=True)
class _Kept:
    """A call and the attempt (epoch, then number) that last began it."""

    call: RecordedCall
    claim: tuple[int, int]
    idempotent: bool

    def worth_repeating(self, claim: tuple[int, int]) -> bool:
        """A passing failure of an earlier attempt: replaying it would make every retry fail alike."""
        error = self.call.error
        return (
            error is not None and self.idempotent and self.claim != claim and error_from_json(error).retryable
        )


class LocalCallLog:
    """A `CallLog` in memory, by the journal's rules but for budgets: for tests, examples, agents run alone."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str], dict[str, _Kept]] = {}
        self._owner: dict[tuple[str, str], tuple[int, int]] = {}

    async def begin(self, intent: CallIntent) -> RecordedCall | None:
        calls, claim = self._welcome(intent.scope)
        known = calls.get(intent.key)
        idempotent = intent.idempotent and (known is None or known.idempotent)
        if known is not None and known.call.state == "done":
            if not (intent.idempotent and known.worth_repeating(claim)):
                return known.call
        elif known is not None and known.call.state == "unknown" and not idempotent:
            raise OutcomeUnknown(
                f"the tool {intent.name} was begun by an earlier attempt and its outcome is not known",
                fix="find out whether it took effect; it is not repeated by itself",
            )
        call = RecordedCall(
            intent.key, intent.kind, intent.name, intent.request_hash, "intent", request=intent.request
        )
        calls[intent.key] = _Kept(call, claim, idempotent)
        return None

    async def finish(self, outcome: CallOutcome) -> None:
        calls, claim = self._welcome(outcome.scope)
        known = calls.get(outcome.key)
        if known is None or known.call.state in ("unknown", "cleared"):
            raise StepError(f"the call {outcome.key} was never begun", fix="begin a call before finishing it")
        if known.call.state == "done":
            return
        call = replace(
            known.call,
            state="done",
            response=outcome.response,
            error=outcome.error,
            usage=outcome.usage,
            notes=outcome.notes,
        )
        calls[outcome.key] = replace(known, call=call, claim=claim)

    def settle(self, scope: CallScope, key: str, response: dict[str, Any] | None) -> None:
        """A person's word on a call of unknown outcome: its response, or None to let it be made again."""
        calls = self._calls[(scope.run, scope.step)]
        state: Literal["done", "cleared"] = "cleared" if response is None else "done"
        calls[key] = replace(calls[key], call=replace(calls[key].call, state=state, response=response))

    def calls(self, scope: CallScope) -> list[RecordedCall]:
        """The calls of a step in the order in which they were first begun."""
        return [kept.call for kept in self._calls.get((scope.run, scope.step), {}).values()]

    def _welcome(self, scope: CallScope) -> tuple[dict[str, _Kept], tuple[int, int]]:
        step, claim = (scope.run, scope.step), (scope.epoch, scope.attempt)
        if claim < self._owner.get(step, claim):
            raise StaleEpoch(f"step {scope.step} was given to another attempt", fix="stop this one")
        calls = self._calls.setdefault(step, {})
        if claim > self._owner.get(step, claim):
            for key, kept in calls.items():
                if kept.call.state == "intent":
                    calls[key] = replace(kept, call=replace(kept.call, state="unknown"))
        self._owner[step] = claim
        return calls, claim


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
