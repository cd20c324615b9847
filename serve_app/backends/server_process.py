"""A server as a process of the replica's: started, listened to, ended with all that it has started itself."""

import contextlib
import socket
import subprocess
import sys
import threading
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from manta.telemetry import get_logger
from serve_app.backends import server_keeper

LAST_LINES = 20
_MARK = "MANTA_SERVER_MARK"
"""In the environment of a server and of what it starts: finds them should the keeper be killed."""
_KEEPER_S = 5.0
"""What the keeper itself may take beyond the server's grace."""


class ServerProcess:
    """Runs from its creation on. Each line that it writes goes to the log of `manta.server.NAME`."""

    def __init__(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str], grace_s: float
    ) -> None:
        self._log = get_logger(f"server.{name}")
        self._grace_s = grace_s
        self._mark = uuid.uuid4().hex
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        keeper = [sys.executable, "-P", str(Path(server_keeper.__file__)), str(grace_s), "--", *arguments]
        self._keeper = subprocess.Popen(
            keeper,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**environment, _MARK: self._mark},
            # A Ctrl-C at the terminal is for the platform, which then ends its servers in order.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"output of {name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The keeper's."""
        return self._keeper.pid

    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._keeper.poll()

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended after so many seconds at most."""
        try:
            self._keeper.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_lines(self) -> str:
        """The end of what it wrote; of one that has ended, all of that end."""
        if self.status() is not None:
            self._reader.join(_KEEPER_S)
        return "\n".join(self._lines)

    def stop(self) -> None:
        """End it: politely, after the grace by force. Returns once it and its descendants are gone."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        if not self.wait(self._grace_s + _KEEPER_S):
            self._keeper.kill()
            self._keeper.wait()
        if self._keeper.returncode < 0:
            _kill_marked(self._mark)
        self._reader.join(_KEEPER_S)

    def _read(self) -> None:
        assert self._keeper.stdout is not None
        with self._keeper.stdout as output:
            for raw in output:
                line = raw.decode(errors="replace").rstrip()
                self._lines.append(line)
                self._log.info(line)


def _kill_marked(mark: str) -> None:
    for process in psutil.process_iter():
        # Others' environments may not be read; ours are our own user's.
        with contextlib.suppress(psutil.Error):
            if process.environ().get(_MARK) == mark:
                process.kill()


def free_port(host: str) -> int:
    """A port that nobody listens on just now; another process may still take it first."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
