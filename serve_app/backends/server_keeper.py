"""Stands between a replica and the server it starts, so that the server never outlives the replica.

    python -P server_keeper.py GRACE_S -- COMMAND ...

Runs by its path, with the standard library alone: it must start at once and whatever the replica's search path is.
Its standard input is a pipe that the replica holds open and never writes to. Its end means that the replica is
gone or wants the server gone: also a replica killed by SIGKILL, from whichever of its threads the keeper was started
(PR_SET_PDEATHSIG alone follows the thread). The keeper adopts what its descendants leave behind, so that also
daemons of the server end. Exits with the server's status; a signal's number is told as 128 and that.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.1
_LINUX = sys.platform == "linux"


def main(arguments: list[str]) -> int:
    grace_s, command = float(arguments[0]), arguments[2:]
    if _LINUX:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    keeper = os.getpid()
    try:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            # For the case that the keeper itself is killed.
            preexec_fn=lambda: _die_with(keeper),
        )
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        return 127
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.close(0) if _open(0) else None)
    status = _watch(server)
    _end_all(server, grace_s)
    status = server.wait() if status is None else status
    return status if status >= 0 else 128 - status


def _watch(server: "subprocess.Popen[bytes]") -> int | None:
    """The server's status once it ended; None when the replica is gone first."""
    while True:
        _collect(server)
        if server.returncode is not None:
            return server.returncode
        try:
            ready, _, _ = select.select([0], [], [], _POLL_S)
            if ready and not os.read(0, 1):
                return None
        except OSError:
            # Closed by a signal to this process.
            return None


def _end_all(server: "subprocess.Popen[bytes]", grace_s: float) -> None:
    """Ask everything under this process to end, then make it. Returns once nothing is left."""
    for pid in {server.pid, *_descendants()}:
        _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while _left(server) and time.monotonic() < deadline:
        time.sleep(_POLL_S / 5)
    # More than once: a process that is about to die may still start another.
    while left := _left(server):
        for pid in left:
            _signal(pid, signal.SIGKILL)
        time.sleep(_POLL_S / 5)


def _left(server: "subprocess.Popen[bytes]") -> set[int]:
    _collect(server)
    return {*_descendants(), *([server.pid] if server.returncode is None else [])}


def _collect(server: "subprocess.Popen[bytes]") -> None:
    """Wait for all that has ended, adopted processes too: nobody else can."""
    server.poll()
    for pid in _children(os.getpid()):
        if pid != server.pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _descendants() -> list[int]:
    found, waiting = [], _children(os.getpid())
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += _children(pid)
    return found


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []
    found = []
    for task in tasks:
        with contextlib.suppress(OSError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _die_with(parent: int) -> None:
    if _LINUX:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(127)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
