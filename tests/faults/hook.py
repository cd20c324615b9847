"""A receiver of webhooks."""

import asyncio
import json
from collections import defaultdict
from types import TracebackType
from typing import Any, Self


class Hook:
    """Takes everything. `told`: the statuses that came, by run, in order."""

    def __init__(self) -> None:
        self.told: dict[str, list[str]] = defaultdict(list)
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/told"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = next(
                int(line.partition(":")[2]) for line in head.splitlines() if line.startswith("content-length")
            )
            self._note(json.loads(await reader.readexactly(size)))
            writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # The sender died; it comes again.
        finally:
            writer.close()

    def _note(self, body: dict[str, Any]) -> None:
        self.told[body["id"]].append(body["status"])
