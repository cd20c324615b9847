"""A client of OpenAI's chat completions that takes next to no time of its own, as it shares the cores with Ray.

Raw HTTP/1.1 on connections that are kept; it looks for the few marks in an answer that are to be timed or counted.
Only the standard library, so that its process starts at once.
"""

import asyncio
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PATIENCE_S = 60.0
TAIL = 2048
"""Bytes at the end of an answer in which its usage and its end are."""
NUMBER = "########"
"""Stands in a prompt for the number of the request."""
_WROTE = re.compile(rb'"content": ?"[^"]')
_USAGE = re.compile(rb'"prompt_tokens": ?(\d+), ?"completion_tokens": ?(\d+)')
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Question:
    """One request, made ready. `stream`: its answer has to end with `[DONE]`."""

    host: str
    port: int
    data: bytes
    stream: bool

    def numbered(self, number: int) -> bytes:
        """The request with its number in place of `NUMBER`, so that no two begin alike."""
        return self.data.replace(NUMBER.encode(), b"%08d" % (number % 10**8), 1)


def question(url: str, path: str, body: dict[str, Any], key: str = "") -> Question:
    """`url`: `http://HOST:PORT`; `key`: shown as a bearer's, none where it is empty."""
    host, _, port = url.removeprefix("http://").partition(":")
    content = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}:{port}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
    ]
    lines += [f"Authorization: Bearer {key}"] if key else []
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return Question(host, int(port), head + content, bool(body.get("stream")))


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds from the moment the request was due: `first` to the first text, `whole` to the end.

    `status` is 0 where none came. `fault` is empty for an answer that came whole.
    """

    first: float
    whole: float
    status: int
    fault: str = ""
    tokens_in: int = 0
    tokens_out: int = 0


class Reader:
    """One answer as its bytes arrive. `feed` returns True at the end of it."""

    def __init__(self) -> None:
        self.status = 0
        self.first_at: float | None = None
        self._head: bytes | None = b""
        self._left: int | None = None
        self._tail = b""

    def feed(self, data: bytes, now: float) -> bool:
        if self._head is not None:
            head, mark, rest = (self._head + data).partition(b"\r\n\r\n")
            if not mark:
                self._head = head
                return False
            self._begin(head)
            data = rest
        if self._left is not None:
            self._left -= len(data)
        before = self._tail
        self._tail = (before + data)[-TAIL:]
        if self.first_at is None and _WROTE.search(before[-32:] + data):
            self.first_at = now
        return self._left <= 0 if self._left is not None else self._tail.endswith(_LAST_CHUNK)

    def _begin(self, head: bytes) -> None:
        self._head = None
        self.status = int(head.split(b" ", 2)[1])
        length = _LENGTH.search(head)
        if length is not None:
            self._left = int(length[1])
        elif not _CHUNKED.search(head):
            raise ValueError("an answer of unknown length")
        else:
            # So that an empty body, too, ends behind a line.
            self._tail = b"\r\n"

    def answer(self, due: float, now: float, *, stream: bool) -> Answer:
        usage = _USAGE.search(self._tail)
        fault = self._fault(stream)
        first = now if self.first_at is None else self.first_at
        read, written = (int(usage[1]), int(usage[2])) if usage else (0, 0)
        return Answer(first - due, now - due, self.status, fault, read, written)

    def _fault(self, stream: bool) -> str:
        if self.status != 200:
            return f"status {self.status}"
        if stream and b"data: [DONE]" not in self._tail:
            return "cut off"
        return "" if self.first_at is not None else "no text"


class Connection(asyncio.Protocol):
    """A connection that is kept; one request at a time."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._reader: Reader | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.open = True

    def data_received(self, data: bytes) -> None:
        waiter, reader = self._waiter, self._reader
        if waiter is None or reader is None or waiter.done():
            self.close()
            return
        try:
            if reader.feed(data, time.perf_counter()):
                waiter.set_result(None)
        except ValueError as error:
            waiter.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc or ConnectionError("closed before the end"))

    async def ask(self, asked: Question, number: int, due: float) -> Answer:
        """Raises OSError, ValueError or TimeoutError: the connection is of no use any more."""
        reader = self._reader = Reader()
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(asked.numbered(number))
        async with asyncio.timeout(PATIENCE_S):
            await self._waiter
        self._waiter = None
        return reader.answer(due, time.perf_counter(), stream=asked.stream)

    def close(self) -> None:
        self.open = False
        if self._transport is not None:
            self._transport.close()


class Pool:
    """Asks over whichever kept connection is free, or a new one. An answer that fails is an `Answer` too."""

    def __init__(self) -> None:
        self._idle: list[Connection] = []

    async def ask(self, asked: Question, number: int, due: float) -> Answer:
        connection: Connection | None = None
        try:
            connection = self._free() or await self._connect(asked)
            answer = await connection.ask(asked, number, due)
        except (OSError, ValueError, TimeoutError) as error:
            if connection is not None:
                connection.close()
            late = time.perf_counter() - due
            return Answer(late, late, 0, f"{type(error).__name__}: {error}".rstrip(": "))
        self._idle.append(connection)
        return answer

    def _free(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        return None

    async def _connect(self, asked: Question) -> Connection:
        loop = asyncio.get_running_loop()
        make: Callable[[], Connection] = Connection
        async with asyncio.timeout(PATIENCE_S):
            _, connection = await loop.create_connection(make, asked.host, asked.port)
        return connection

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
