"""The client that awaits, for programs with an event loop. It mirrors `manta.client`."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, overload

import httpx

from manta.async_client_rooms import Items, Models, Schedules, Threads
from manta.client_core import (
    PATIENCE_S,
    TRIES,
    ClientCore,
    Messages,
    Waiting,
    stream_path,
    succeeded,
)
from manta.errors import MantaError
from manta.events import Event
from manta.messages import ArtifactRef, Passage
from manta.sse import FrameParser
from manta.wire import (
    Approval,
    Call,
    ChatReply,
    CollectionInfo,
    DocumentInfo,
    Feedback,
    GraphInfo,
    Readiness,
    RecordedCall,
    Run,
    RunResult,
    answer,
    error_of,
    files,
    models,
    runs,
)
from manta.wire.runs import BudgetLike, RunOptions

T = TypeVar("T")


class AsyncClient(ClientCore):
    """The same as `Client`, awaited; `stream` and a streamed chat are async iterators."""

    def __init__(
        self, base_url: str | None = None, *, api_key: str | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        super().__init__(base_url, api_key, patience_s)
        self._http = httpx.AsyncClient(base_url=self.base_url, headers=self.headers, trust_env=False)
        self.threads = Threads(self._call)
        self.schedules = Schedules(self._call)
        self.items = Items(self._call)
        self.models = Models(self._call)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def run(
        self,
        graph: str,
        input: Any,
        *,
        thread: str | None = None,
        budget: BudgetLike | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
        webhook: str | None = None,
        reject_if_busy: bool = False,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> RunResult:
        options = RunOptions(metadata or {}, thread, budget, priority, timeout_s, webhook, reject_if_busy)
        run = await self._submit(graph, input, options, idempotency_key)
        return succeeded(await self.wait(run.id, timeout=timeout))

    async def submit(
        self,
        graph: str,
        input: Any,
        *,
        thread: str | None = None,
        budget: BudgetLike | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
        webhook: str | None = None,
        reject_if_busy: bool = False,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Run:
        options = RunOptions(metadata or {}, thread, budget, priority, timeout_s, webhook, reject_if_busy)
        return await self._submit(graph, input, options, idempotency_key)

    async def _submit(self, graph: str, input: Any, options: RunOptions, key: str | None) -> Run:
        return await self._call(runs.submit(graph, input, key or str(uuid.uuid4()), options))

    async def wait(self, run_id: str, *, timeout: float | None = None) -> RunResult:
        waiting = Waiting(self, run_id, timeout)
        while True:
            try:
                return await self._call(waiting.call())
            except MantaError as error:
                await asyncio.sleep(waiting.pause(error))

    async def stream(
        self, run_id: str, after: int = 0, *, silence_s: float | None = None
    ) -> AsyncIterator[Event]:
        follower = self.follower(run_id, after)
        while not follower.finished:
            try:
                timeout = self.stream_timeout(silence_s)
                headers = follower.headers()
                async with self._http.stream(
                    "GET", stream_path(run_id), headers=headers, timeout=timeout
                ) as response:
                    if response.status_code >= 400:
                        await response.aread()
                        raise error_of(response)
                    self.met = True
                    async for chunk in response.aiter_bytes():
                        for event in follower.feed(chunk):
                            yield event
                        if follower.finished or follower.silent(silence_s):
                            return
                delay = follower.broke_off()
            except httpx.HTTPError as error:
                if isinstance(error, httpx.ReadTimeout) and follower.silent(silence_s):
                    return
                delay = self.again(error, follower.patience)
            except MantaError as error:
                delay = self.again(error, follower.patience)
            await asyncio.sleep(delay)

    async def get(self, run_id: str) -> Run:
        return await self._call(runs.get(run_id))

    async def list(
        self,
        *,
        graph: str | None = None,
        status: str | None = None,
        reason: str | None = None,
        thread: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        limit: int = 20,
        offset: int = 0,
    ) -> Sequence[Run]:
        return await self._call(runs.search(graph, status, reason, thread, metadata, limit, offset))

    async def cancel(self, run_id: str, *, wait: bool = False) -> None:
        await self._call(runs.cancel(run_id, wait))

    async def delete(self, run_id: str) -> None:
        await self._call(runs.delete(run_id))

    async def approvals(self, *, limit: int = 50, offset: int = 0) -> Sequence[Approval]:
        return await self._call(runs.approvals(limit, offset))

    async def approve(self, run_id: str, *, step: str | None = None, comment: str = "") -> Run:
        return await self._call(runs.decide(run_id, "approve", step, None, comment))

    async def reject(self, run_id: str, *, step: str | None = None, comment: str = "") -> Run:
        return await self._call(runs.decide(run_id, "reject", step, None, comment))

    async def edit(self, run_id: str, value: Any, *, step: str | None = None, comment: str = "") -> Run:
        return await self._call(runs.decide(run_id, "edit", step, value, comment))

    async def retry(self, run_id: str, *, step: str | None = None, comment: str = "") -> Run:
        return await self._call(runs.decide(run_id, "retry", step, None, comment))

    async def resolve(self, run_id: str, value: Any, *, step: str | None = None, comment: str = "") -> Run:
        return await self._call(runs.decide(run_id, "resolve", step, value, comment))

    async def fork(
        self,
        run_id: str,
        step: str,
        input: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> Run:
        return await self._call(runs.fork(run_id, step, input, idempotency_key or str(uuid.uuid4())))

    async def resume(self, run_id: str, *, budget: BudgetLike | None = None) -> Run:
        return await self._call(runs.resume(run_id, budget))

    async def rate(self, run_id: str, rating: int | None = None, comment: str = "") -> Feedback:
        return await self._call(runs.rate(run_id, rating, comment))

    async def feedback(self, run_id: str) -> Sequence[Feedback]:
        return await self._call(runs.feedback(run_id))

    async def calls(self, run_id: str, *, whole: bool = False) -> Sequence[RecordedCall]:
        return await self._call(runs.calls(run_id, whole))

    @overload
    async def chat(
        self, messages: Messages, model: str | None = None, stream: Literal[False] = False, **options: Any
    ) -> ChatReply: ...

    @overload
    async def chat(
        self, messages: Messages, model: str | None = None, *, stream: Literal[True], **options: Any
    ) -> AsyncIterator[str]: ...

    async def chat(
        self, messages: Messages, model: str | None = None, stream: bool = False, **options: Any
    ) -> ChatReply | AsyncIterator[str]:
        call = models.chat(messages, model or "", stream, **options)
        if stream:
            return self._chat_stream(call)
        return await self._call(call)

    async def upload_file(self, path: str | Path) -> ArtifactRef:
        return await self._call(files.upload(Path(path)))

    async def download(self, ref: ArtifactRef | str) -> bytes:
        return await self._call(files.download(ref if isinstance(ref, str) else ref.sha256))

    async def add_document(
        self, collection: str, source: str | Path | bytes, name: str | None = None
    ) -> DocumentInfo:
        return await self._call(
            files.add_document(collection, Path(source) if isinstance(source, str) else source, name)
        )

    async def documents(self, collection: str) -> Sequence[DocumentInfo]:
        return await self._call(files.documents(collection))

    async def search_documents(self, collection: str, query: str, limit: int = 8) -> Sequence[Passage]:
        return await self._call(files.search_documents(collection, query, limit))

    async def collections(self) -> Sequence[CollectionInfo]:
        return await self._call(files.collections())

    async def graphs(self) -> Sequence[GraphInfo]:
        return await self._call(models.graphs())

    async def ready(self) -> Readiness:
        return await self._call(models.ready())

    async def _call(self, call: Call[T]) -> T:
        for attempt in range(1, TRIES + 1):
            try:
                response = await self._http.request(call.method, call.path, **self.arguments(call))
            except httpx.HTTPError as error:
                failure = self.lost(call, error, attempt)
                if failure is not None:
                    raise failure from None
            else:
                self.met = True
                return answer(call, response)
        raise AssertionError("the last try either answers or raises")

    async def _chat_stream(self, call: Call[ChatReply]) -> AsyncIterator[str]:
        parser = FrameParser()
        try:
            async with self._http.stream(call.method, call.path, **self.arguments(call)) as response:
                if response.status_code >= 400:
                    await response.aread()
                    raise error_of(response)
                async for chunk in response.aiter_bytes():
                    for frame in parser.feed(chunk):
                        if frame.data == "[DONE]":
                            return
                        text = models.chat_delta(frame.data)
                        if text:
                            yield text
        except httpx.HTTPError as error:
            raise self.lost(call, error, TRIES) or error from None
