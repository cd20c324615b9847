"""A server that answers as OpenAI's chat completions do, on raw sockets, in the way a test wants."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(value: dict[str, Any]) -> bytes:
    return chunk(f"data: {json.dumps(value)}\n\n".encode())


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ROLE = event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
TEXT = event({"choices": [{"delta": {"content": "The tide"}}]})
LAST = event({"choices": [], "usage": USAGE})
DONE = chunk(b"data: [DONE]\n\n")
END = b"0\r\n\r\n"
STREAM = (HEAD, ROLE, TEXT, TEXT, LAST, DONE, END)


def whole(status: int, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


ANSWER = whole(200, {"choices": [{"message": {"content": "The tide"}}], "usage": USAGE})


@dataclass
class LeanServer:
    """`pieces` are sent for every request; a None among them closes the connection."""

    pieces: tuple[bytes | None, ...] = STREAM
    bodies: list[dict[str, Any]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    connections: int = 0
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._answer(reader, writer):
                pass
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(line for line in head.split("\r\n") if line.startswith("Content-Length"))
        self.heads.append(head)
        self.bodies.append(json.loads(await reader.readexactly(int(length.split(":")[1]))))
        for piece in self.pieces:
            if piece is None:
                return False
            writer.write(piece)
            await writer.drain()
            # So that pieces arrive one by one.
            await asyncio.sleep(0)
        return True


@contextlib.asynccontextmanager
async def lean_server(*pieces: bytes | None) -> AsyncGenerator[LeanServer]:
    served = LeanServer(pieces or STREAM)
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    served.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield served
    finally:
        server.close()
