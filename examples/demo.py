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
from manta.platform_process import PlatformInfo, running

ROOT = Path(__file__).resolve().parent.parent
QUESTION = (
    "How does Ray Serve decide on the number of replicas of a deployment, "
    "and what does serving 50 requests/s on each GPU option cost per hour?"
)
FIRST_PORT = 8000
PORTS = 50
SAMPLE_S = 2.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="leave the platform running")
    parser.add_argument("--out", type=Path, default=ROOT / "out", help="where the report goes")
    parser.add_argument("--home", type=Path, default=ROOT / ".demo", help="where the demo's platform lives")
    options = parser.parse_args()
    home = options.home / "home"
    try:
        documents = write_documents(options.home / "documents")
    except OSError as error:
        print(f"error: home_not_writable: {error} (choose another: --home DIR)", file=sys.stderr)
        return 1
    print(f"Documents: {len(documents)} files of Ray Serve docstrings in {documents[0].parent}", flush=True)
    environment = {**os.environ, "MANTA_HOME": str(home), "MANTA_PORT": str(_port(running(home)))}
    memory = PeakMemory(home)
    memory.start()
    try:
        status = _ask(environment, documents[0].parent, options.out)
    finally:
        memory.stop()
        if not options.keep:
            _manta(environment, "down")
    print(
        f"Peak memory of the platform: {memory.peak_gib:.2f} GiB (summed PSS, sampled every {SAMPLE_S:g} s)"
    )
    info = running(home)
    if info is not None:
        print(f"The platform is up: {info.address}/")
        print(f"Stop it with: MANTA_HOME={home} {_command()} down")
    return status if status or (options.out / "report.json").is_file() else 1


def _ask(environment: dict[str, str], documents: Path, out: Path) -> int:
    data = ROOT / "examples/data/gpu_options.csv"
    return _manta(
        environment, "run", QUESTION, "--docs", str(documents), "--data", str(data), "--out", str(out)
    )


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


def _port(kept: PlatformInfo | None) -> int:
    """The port of a demo that was kept running; else the platform's usual one, or the next that is free."""
    if kept is not None:
        return int(kept.address.rsplit(":", 1)[1])
    for port in range(FIRST_PORT, FIRST_PORT + PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise SystemExit(
        f"error: port_in_use: no free port from {FIRST_PORT} to {FIRST_PORT + PORTS - 1} (free one)"
    )


class PeakMemory(threading.Thread):
    """Samples the proportional set size of the platform's processes: shared pages are counted once."""

    def __init__(self, home: Path) -> None:
        super().__init__(daemon=True)
        self.peak_gib = 0.0
        self._home = home
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.peak_gib = max(self.peak_gib, platform_pss(self._home) / 2**30)

    def stop(self) -> None:
        self._ended.set()
        self.join()


def platform_pss(home: Path) -> int:
    """Bytes of the supervisor and all processes under it; 0 when it does not run."""
    info = running(home)
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
