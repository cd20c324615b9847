"""The main job on real parts: `make demo`. Starts the platform, asks a question, writes a report, stops.

The question is one a user of Ray Serve has; the documents are the docstrings of the installed Ray Serve, the
data is `examples/data/gpu_options.csv`. A platform of its own under `.demo/` keeps it apart from yours.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil

from examples.serve_documents import write_documents

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".demo"
QUESTION = (
    "How does Ray Serve decide on the number of replicas of a deployment, "
    "and what does serving 50 requests/s on each GPU option cost per hour?"
)
FIRST_PORT = 8000
SAMPLE_S = 2.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="leave the platform running")
    parser.add_argument("--out", type=Path, default=ROOT / "out", help="where the report goes")
    options = parser.parse_args()
    documents = write_documents(HOME / "documents_source")
    print(f"Documents: {len(documents)} files of Ray Serve docstrings in {documents[0].parent}")
    environment = {**os.environ, "MANTA_HOME": str(HOME / "home"), "MANTA_PORT": str(_port())}
    memory = PeakMemory()
    memory.start()
    try:
        status = _manta(
            environment,
            "run",
            QUESTION,
            "--docs",
            str(documents[0].parent),
            "--data",
            str(ROOT / "examples/data/gpu_options.csv"),
            "--out",
            str(options.out),
        )
    finally:
        memory.stop()
        if not options.keep:
            _manta(environment, "down")
    print(
        f"Peak memory of the platform: {memory.peak_gib:.2f} GiB (summed PSS, sampled every {SAMPLE_S:g} s)"
    )
    if options.keep:
        print(f"The platform is up: http://127.0.0.1:{environment['MANTA_PORT']}/")
        print(f"Stop it with: MANTA_HOME={environment['MANTA_HOME']} {_command()} down")
    return status


def _command() -> Path:
    return Path(sys.executable).parent / "manta"


def _manta(environment: dict[str, str], *arguments: str) -> int:
    """Run the command as a user would; Ctrl-C reaches it, and is its to answer."""
    process = subprocess.Popen([_command(), *arguments], env=environment, cwd=ROOT)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, handler)


def _port() -> int:
    """The platform's usual port, or the next that is free; a demo that was kept running keeps its own."""
    state = HOME / "home" / "platform.json"
    if state.is_file():
        import json

        return int(json.loads(state.read_text())["address"].rsplit(":", 1)[1])
    for port in range(FIRST_PORT, FIRST_PORT + 50):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise SystemExit(f"error: no free port from {FIRST_PORT} to {FIRST_PORT + 49}")


class PeakMemory(threading.Thread):
    """Samples the proportional set size of the platform's processes: shared pages are counted once."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_gib = 0.0
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.peak_gib = max(self.peak_gib, platform_pss() / 2**30)

    def stop(self) -> None:
        self._ended.set()
        self.join()


def platform_pss() -> int:
    """Bytes of the supervisor and all processes under it; 0 when it does not run."""
    from manta.platform_process import running

    info = running(HOME / "home")
    if info is None:
        return 0
    total = 0
    root = psutil.Process(info.pid)
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            # It ended between the listing and the look.
            continue
    return total


if __name__ == "__main__":
    sys.exit(main())
