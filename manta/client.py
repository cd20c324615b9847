"""The client that blocks, of a running platform; its twin that awaits is in `manta.async_client`.

Requests and answers are in `manta.wire`, the reading of streams in `manta.sse`; here is only I/O.
"""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, overload

import httpx

from manta.async_client import AsyncClient
from manta.client_core import (
    PATIENCE_S,
    TRIES,
    ClientCore,
    Messages,
    Waiting,
    stream_path,
    succeeded,
)
from manta.client_rooms import Items, Models, Schedules, Threads
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

__all__ = ["AsyncClient", "Client"]

T = TypeVar("T")


class Client(ClientCore):
    """A client that blocks.

    Args:
        base_url: where the platform is; None takes it from `manta.yaml` and the environment.
        api_key: sent as a bearer token; None takes `MANTA_API_KEY` from the environment.
        patience_s: how long a stream or a wait survives a platform that is away.

    Every method raises the MantaError the service describes, `platform_unreachable` when nothing answers.
    """

    def __init__(
        self, base_url: str | None = None, *, api_key: str | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        super().__init__(base_url, api_key, patience_s)
        self._http = httpx.Client(base_url=self.base_url, headers=self.headers, trust_env=False)
        self.threads = Threads(self._call)
        self.schedules = Schedules(self._call)
        self.items = Items(self._call)
        self.models = Models(self._call)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def run(
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
        """Submit a run and wait for its output.

        Args:
            timeout: seconds to wait; after them `wait_timeout` is raised and the run goes on.

        The other arguments are those of `submit`. Raises the run's own error when it does not succeed; one that
        comes to wait for a person raises with the code `waiting`.
        """
        options = RunOptions(metadata or {}, thread, budget, priority, timeout_s, webhook, reject_if_busy)
        run = self._submit(graph, input, options, idempotency_key)
        return succeeded(self.wait(run.id, timeout=timeout))

    def submit(
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
        """Start a run. The same key with the same input is the same run, however often it is sent.

        Args:
            thread: the conversation it belongs to; runs of one thread come one after the other.
            budget: what it may use, `{"tokens": 1000, "seconds": 60}`.
            priority: -100 to 100, lower goes first.
            timeout_s: its deadline, from now.
            webhook: an address that is told of its end.
            reject_if_busy: raise Conflict (`thread_busy`) instead of waiting for the thread's other run.
        """
        options = RunOptions(metadata or {}, thread, budget, priority, timeout_s, webhook, reject_if_busy)
        return self._submit(graph, input, options, idempotency_key)

    def _submit(self, graph: str, input: Any, options: RunOptions, key: str | None) -> Run:
        return self._call(runs.submit(graph, input, key or str(uuid.uuid4()), options))

    def wait(self, run_id: str, *, timeout: float | None = None) -> RunResult:
        """Wait until the run is done, however it ends, or waits for a person."""
        waiting = Waiting(self, run_id, timeout)
        while True:
            try:
                return self._call(waiting.call())
            except MantaError as error:
                time.sleep(waiting.pause(error))

    def stream(self, run_id: str, after: int = 0, *, silence_s: float | None = None) -> Iterator[Event]:
        """The events of a run until its end or until it waits for a person, token deltas (`seq` 0) among them.

        Args:
            after: leave out events up to this sequence number.
            silence_s: return when no event came for so long; None follows to the end. Over 15 s it is looked at
                when the service's keep-alive comes, every 15 s.
        """
        follower = self.follower(run_id, after)
        while not follower.finished:
            try:
                timeout = self.stream_timeout(silence_s)
                with self._http.stream(
                    "GET", stream_path(run_id), headers=follower.headers(), timeout=timeout
                ) as response:
                    if response.status_code >= 400:
                        response.read()
                        raise error_of(response)
                    self.met = True
                    for chunk in response.iter_bytes():
                        yield from follower.feed(chunk)
                        if follower.finished or follower.silent(silence_s):
                            return
                delay = follower.broke_off()
            except httpx.HTTPError as error:
                if isinstance(error, httpx.ReadTimeout) and follower.silent(silence_s):
                    return
                delay = self.again(error, follower.patience)
            except MantaError as error:
                delay = self.again(error, follower.patience)
            time.sleep(delay)

    def get(self, run_id: str) -> Run:
        """With its steps, and in `waiting` what waits for a person."""
        return self._call(runs.get(run_id))

    def list(
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
        """Runs, newest first.

        Args:
            status: pending, waiting, success, error, timeout or interrupted.
            reason: `dead_letter`, `cancelled`, `deadline` or the code of an error.
        """
        return self._call(runs.search(graph, status, reason, thread, metadata, limit, offset))

    def cancel(self, run_id: str, *, wait: bool = False) -> None:
        """Ask a run to stop; with `wait`, return once it has."""
        self._call(runs.cancel(run_id, wait))

    def delete(self, run_id: str) -> None:
        """Delete a run that is over, with all that belongs to it."""
        self._call(runs.delete(run_id))

    def approvals(self, *, limit: int = 50, offset: int = 0) -> Sequence[Approval]:
        """What waits for a person, that of the newest runs first; `limit` counts runs."""
        return self._call(runs.approvals(limit, offset))

    def approve(self, run_id: str, *, step: str | None = None, comment: str = "") -> Run:
        """Let a step that waits go on. `step` can be left out when only one waits."""
        return self._call(runs.decide(run_id, "approve", step, None, comment))

    def reject(self, run_id: str, *, step: str | None = None, comment: str = "") -> Run:
        """Let a step that waits fail, with the code `rejected`."""
        return self._call(runs.decide(run_id, "reject", step, None, comment))

    def edit(self, run_id: str, value: Any, *, step: str | None = None, comment: str = "") -> Run:
        """Let an approval go on with `value` in place of what was shown."""
        return self._call(runs.decide(run_id, "edit", step, value, comment))

    def retry(self, run_id: str, *, step: str | None = None, comment: str = "") -> Run:
        """A call of unknown outcome did not take effect: make it again."""
        return self._call(runs.decide(run_id, "retry", step, None, comment))

    def resolve(self, run_id: str, value: Any, *, step: str | None = None, comment: str = "") -> Run:
        """A call of unknown outcome did take effect: `value` is its result."""
        return self._call(runs.decide(run_id, "resolve", step, value, comment))

    def fork(
        self,
        run_id: str,
        step: str,
        input: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> Run:
        """A new run that goes on from a step of this one, with `input` as that step's input if it is given."""
        return self._call(runs.fork(run_id, step, input, idempotency_key or str(uuid.uuid4())))

    def resume(self, run_id: str, *, budget: BudgetLike | None = None) -> Run:
        """Open a run that failed or was stopped again; failed steps run anew. `budget` replaces the run's."""
        return self._call(runs.resume(run_id, budget))

    def rate(self, run_id: str, rating: int | None = None, comment: str = "") -> Feedback:
        """Say what you think of a run: a rating from 1 (worst) to 5, a comment, or both."""
        return self._call(runs.rate(run_id, rating, comment))

    def feedback(self, run_id: str) -> Sequence[Feedback]:
        return self._call(runs.feedback(run_id))

    def calls(self, run_id: str, *, whole: bool = False) -> Sequence[RecordedCall]:
        """The record of its model and tool calls; with `whole` their requests and responses too."""
        return self._call(runs.calls(run_id, whole))

    @overload
    def chat(
        self, messages: Messages, model: str | None = None, stream: Literal[False] = False, **options: Any
    ) -> ChatReply: ...

    @overload
    def chat(
        self, messages: Messages, model: str | None = None, *, stream: Literal[True], **options: Any
    ) -> Iterator[str]: ...

    def chat(
        self, messages: Messages, model: str | None = None, stream: bool = False, **options: Any
    ) -> ChatReply | Iterator[str]:
        """Talk to a model, or to a graph by its name. `stream=True` gives the text piece by piece.

        Args:
            model: None is the platform's default model.
            options: temperature, max_tokens, stop, seed.
        """
        call = models.chat(messages, model or "", stream, **options)
        if stream:
            return self._chat_stream(call)
        return self._call(call)

    def upload_file(self, path: str | Path) -> ArtifactRef:
        return self._call(files.upload(Path(path)))

    def download(self, ref: ArtifactRef | str) -> bytes:
        """The content of a file by reference or hash, checked against the hash."""
        return self._call(files.download(ref if isinstance(ref, str) else ref.sha256))

    def add_document(
        self, collection: str, source: str | Path | bytes, name: str | None = None
    ) -> DocumentInfo:
        """Add or replace a document. Raises UnreadableDocument when there is no text in it."""
        return self._call(
            files.add_document(collection, Path(source) if isinstance(source, str) else source, name)
        )

    def documents(self, collection: str) -> Sequence[DocumentInfo]:
        return self._call(files.documents(collection))

    def search_documents(self, collection: str, query: str, limit: int = 8) -> Sequence[Passage]:
        return self._call(files.search_documents(collection, query, limit))

    def collections(self) -> Sequence[CollectionInfo]:
        return self._call(files.collections())

    def graphs(self) -> Sequence[GraphInfo]:
        return self._call(models.graphs())

    def ready(self) -> Readiness:
        return self._call(models.ready())

    def _call(self, call: Call[T]) -> T:
        for attempt in range(1, TRIES + 1):
            try:
                response = self._http.request(call.method, call.path, **self.arguments(call))
            except httpx.HTTPError as error:
                failure = self.lost(call, error, attempt)
                if failure is not None:
                    raise failure from None
            else:
                self.met = True
                return answer(call, response)
        raise AssertionError("the last try either answers or raises")

    def _chat_stream(self, call: Call[ChatReply]) -> Iterator[str]:
        parser = FrameParser()
        try:
            with self._http.stream(call.method, call.path, **self.arguments(call)) as response:
                if response.status_code >= 400:
                    response.read()
                    raise error_of(response)
                for chunk in response.iter_bytes():
                    for frame in parser.feed(chunk):
                        if frame.data == "[DONE]":
                            return
                        text = models.chat_delta(frame.data)
                        if text:
                            yield text
        except httpx.HTTPError as error:
            raise self.lost(call, error, TRIES) or error from None
