"""The client that blocks, of a running platform; its twin that awaits is in `manta.async_client`.

Requests and answers are in `manta.wire`, the reading of streams in `manta.sse`; here is only I/O.
"""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, overload

import httpx

from manta import wire
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
from manta.errors import MantaError
from manta.events import Event
from manta.messages import ArtifactRef, Passage
from manta.sse import FrameParser
from manta.wire import Call, ChatReply, CollectionInfo, DocumentInfo, GraphInfo, Readiness, Run, RunResult

__all__ = ["AsyncClient", "Client"]

T = TypeVar("T")


class Client(ClientCore):
    """A client that blocks.

    Args:
        base_url: where the platform is; None takes it from `manta.yaml` and the environment.
        api_key: sent as a bearer token.
        patience_s: how long a stream or a wait survives a platform that is away.

    Every method raises the MantaError the service describes, `platform_unreachable` when nothing answers.
    """

    def __init__(
        self, base_url: str | None = None, *, api_key: str | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        super().__init__(base_url, api_key, patience_s)
        self._http = httpx.Client(base_url=self.base_url, headers=self.headers, trust_env=False)

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
        idempotency_key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> RunResult:
        """Submit a run and wait for its output. Raises the run's own error when it does not succeed.

        Args:
            timeout: seconds to wait; after them `wait_timeout` is raised and the run goes on.
        """
        run = self.submit(graph, input, idempotency_key=idempotency_key, metadata=metadata)
        return succeeded(self.wait(run.id, timeout=timeout))

    def submit(
        self,
        graph: str,
        input: Any,
        *,
        idempotency_key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Run:
        """Start a run. The same key with the same input is the same run, however often it is sent."""
        return self._call(wire.submit(graph, input, idempotency_key or str(uuid.uuid4()), metadata))

    def wait(self, run_id: str, *, timeout: float | None = None) -> RunResult:
        """Wait until the run is done, however it ends."""
        waiting = Waiting(self, run_id, timeout)
        while True:
            try:
                return self._call(waiting.call())
            except MantaError as error:
                time.sleep(waiting.pause(error))

    def stream(self, run_id: str, after: int = 0, *, silence_s: float | None = None) -> Iterator[Event]:
        """The events of a run until its end, token deltas (`seq` 0) among them.

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
                        raise wire.error_of(response)
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
        return self._call(wire.get(run_id))

    def list(
        self,
        *,
        graph: str | None = None,
        status: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        limit: int = 20,
    ) -> Sequence[Run]:
        """Runs, newest first."""
        return self._call(wire.search_runs(graph, status, metadata, limit))

    def cancel(self, run_id: str, *, wait: bool = False) -> None:
        """Ask a run to stop; with `wait`, return once it has."""
        self._call(wire.cancel(run_id, wait))

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
        call = wire.chat(messages, model or "", stream, **options)
        if stream:
            return self._chat_stream(call)
        return self._call(call)

    def upload_file(self, path: str | Path) -> ArtifactRef:
        return self._call(wire.upload(Path(path)))

    def download(self, ref: ArtifactRef | str) -> bytes:
        """The content of a file by reference or hash, checked against the hash."""
        return self._call(wire.download(ref if isinstance(ref, str) else ref.sha256))

    def add_document(
        self, collection: str, source: str | Path | bytes, name: str | None = None
    ) -> DocumentInfo:
        """Add or replace a document. Raises UnreadableDocument when there is no text in it."""
        return self._call(
            wire.add_document(collection, Path(source) if isinstance(source, str) else source, name)
        )

    def documents(self, collection: str) -> Sequence[DocumentInfo]:
        return self._call(wire.documents(collection))

    def search_documents(self, collection: str, query: str, limit: int = 8) -> Sequence[Passage]:
        return self._call(wire.search_documents(collection, query, limit))

    def collections(self) -> Sequence[CollectionInfo]:
        return self._call(wire.collections())

    def graphs(self) -> Sequence[GraphInfo]:
        return self._call(wire.graphs())

    def ready(self) -> Readiness:
        return self._call(wire.ready())

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
                return wire.answer(call, response)
        raise AssertionError("the last try either answers or raises")

    def _chat_stream(self, call: Call[ChatReply]) -> Iterator[str]:
        parser = FrameParser()
        try:
            with self._http.stream(call.method, call.path, **self.arguments(call)) as response:
                if response.status_code >= 400:
                    response.read()
                    raise wire.error_of(response)
                for chunk in response.iter_bytes():
                    for frame in parser.feed(chunk):
                        if frame.data == "[DONE]":
                            return
                        text = wire.chat_delta(frame.data)
                        if text:
                            yield text
        except httpx.HTTPError as error:
            raise self.lost(call, error, TRIES) or error from None
