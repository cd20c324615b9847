"""A small OpenAI-compatible server on a real port, whose behaviour each test scripts."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

asked: list[str] = []
"""The paths besides completions that the latest server was asked for."""
Answer = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


@contextmanager
def serving(answer: Answer, told: Mapping[str, Any] | None = None) -> Iterator[str]:
    """The base URL of a server that answers every completion so.

    Args:
        told: what it answers on other paths, `/v1/models` say; a status for what is no JSON object.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.tell()

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path.endswith("/completions"):
                answer(self, body)
            else:
                self.tell()

        def tell(self) -> None:
            asked.append(self.path)
            found = (told or {}).get(self.path, 404)
            self.send_response(found if isinstance(found, int) else 200)
            self.end_headers()
            if not isinstance(found, int):
                self.wfile.write(json.dumps(found).encode())

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def refuse(status: int, text: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        handler.send_response(status)
        handler.end_headers()
        handler.wfile.write(text.encode())

    return answer


def stream(*chunks: Any, done: bool = True) -> Answer:
    """Server-sent chunks; a string is sent as it stands."""

    def answer(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        for chunk in chunks:
            text = chunk if isinstance(chunk, str) else json.dumps(chunk)
            handler.wfile.write(f"data: {text}\n\n".encode())
        if done:
            handler.wfile.write(b"data: [DONE]\n\n")

    return answer


def delta(**fields: Any) -> dict[str, Any]:
    finish = fields.pop("finish", None)
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}
