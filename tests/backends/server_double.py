"""A small OpenAI-compatible server as a process of its own, for tests of how servers are started and ended.

What the last message says is what it does: `die` ends it in the middle of its answer, `slow` waits for a line of
the file `go` beside its notes before it ends the answer, `be ill` makes it answer 500 about its health.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

DAEMON = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--notes", type=Path, required=True)
    parser.add_argument("--fail", type=int, default=0, help="fail from this start on")
    parser.add_argument("--tensor-parallel", type=int, default=1)
    parser.add_argument("--never-ready", action="store_true")
    options = parser.parse_args()
    notes: Path = options.notes
    starts = len(notes.read_text().splitlines()) + 1 if notes.exists() else 1
    if options.fail and starts >= options.fail:
        note(notes, {})
        print("loading the model", "no such file: weights.bin", sep="\n", flush=True)
        sys.exit(3)
    # In a session of its own and deaf to SIGTERM, as the worst of workers.
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON], start_new_session=True)
    seen = {key: os.environ.get(key) for key in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "OWN")}
    note(
        notes,
        {
            "pids": [os.getpid(), daemon.pid],
            "environment": seen,
            "arguments": sys.argv[1:],
            "spread": options.tensor_parallel,
        },
    )
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    healthy = not options.never_ready

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if healthy else 500)
            self.end_headers()
            self.wfile.write(b"{}")

        def do_POST(self) -> None:
            nonlocal healthy
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            wanted = body["messages"][-1]["content"] if "messages" in body else ""
            self.send_response(200)
            self.end_headers()
            self.piece({"content": "well "})
            if wanted == "die":
                os._exit(9)
            if wanted == "be ill":
                healthy = False
            while wanted == "slow" and not (notes.parent / "go").exists():
                time.sleep(0.01)
            self.piece({"content": json.dumps(body, sort_keys=True)})
            self.piece({}, "stop")
            self.wfile.write(b"data: [DONE]\n\n")

        def piece(self, delta: dict[str, Any], finish: str | None = None) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            self.wfile.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
            self.wfile.flush()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    print("ready soon", flush=True)
    ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()


def note(file: Path, line: dict[str, Any]) -> None:
    with file.open("a") as notes:
        notes.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
