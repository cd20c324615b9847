"""The platform as a process of this machine: finding, starting and stopping its supervisor.

The supervisor (`python -m serve_app up`) owns Ray and everything under it. It is known by process id and
start time, never by name, and everything it starts carries a mark in its environment, so that a stop
also finds what outlived a supervisor that was killed.
"""

import errno
import fcntl
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from manta.config import Settings, child_environment
from manta.errors import PlatformError
from manta.machine import GIB, available_memory

MARK = "MANTA_PLATFORM_OF"
REPORT_S = 30.0
"""Longer than all parts together may take, so that it is heard which one was late."""
STOP_TIMEOUT_S = 30.0
LEAST_MEMORY = 2 * GIB
"""Bytes without which a platform of our own is not started: Ray would kill its workers one by one."""
_POLL_S = 0.05
# A MantaError as one line: code, cause, and in brackets the fix.
_TOLD = re.compile(r"([a-z_]+): (.*?)(?: \(([^()]*(?:\([^()]*\)[^()]*)*)\))?")
# Start times come from a clock that may be corrected a little between two readings.
_SAME_START_S = 2.0


@dataclass(frozen=True, slots=True)
class PlatformInfo:
    """A running platform, as its supervisor describes it in `platform.json`."""

    pid: int
    created: float
    address: str
    dashboard: str = ""
    ray_address: str = ""
    token_path: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of the start: a component and how far it is. `seconds` since the start began."""

    component: str
    state: str
    detail: str = ""
    seconds: float = 0.0


def running(home: Path) -> PlatformInfo | None:
    """The platform of this home, if its supervisor lives. A file left by a dead one counts for nothing."""
    data = _read_json(home / "platform.json")
    if data is None or _process(data) is None:
        return None
    known = {name: data[name] for name in PlatformInfo.__dataclass_fields__ if data.get(name) is not None}
    try:
        return PlatformInfo(**known)
    except TypeError:
        return None


def supervisor_command(settings: Settings, config: Path | None) -> list[str]:
    """The command line of a supervisor with these settings."""
    command = [sys.executable, "-m", "serve_app", "up", "--home", str(settings.home)]
    command += ["--port", str(settings.server.port)]
    if config is not None:
        command += ["--config", str(config.resolve())]
    if settings.ray.address:
        command += ["--address", settings.ray.address]
    return command


def start(
    settings: Settings,
    *,
    config: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    command: Sequence[str] | None = None,
    timeout_s: float | None = None,
) -> PlatformInfo:
    """Start the platform and return once it is ready; one that runs already is returned as it is.

    Args:
        command: the supervisor's; None is `supervisor_command`. timeout_s: None is what the settings allow.

    Raises:
        PlatformError: the port is taken, memory is short, a component failed, or the supervisor ended or took too long.
            What was started is stopped again.
    """
    home = settings.home
    _make_home(home)
    with _start_lock(home):
        found = running(home)
        if found is not None:
            return found
        process = _process(_read_json(home / "starting.json"))
        if process is None:
            _stop_leftovers(home)
            check_port(settings.server.host, settings.server.port)
            if not settings.ray.address:
                check_memory(available_memory())
            process = _spawn(home, list(command or supervisor_command(settings, config)))
        try:
            return _until_ready(home, process, on_progress, timeout_s or settings.longest_start_s + REPORT_S)
        except (PlatformError, KeyboardInterrupt):
            _end(home, [process], 5.0)
            raise
        finally:
            (home / "starting.json").unlink(missing_ok=True)


def stop(home: Path, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """Stop the platform of this home: politely, and after the timeout by force. False: there was none.

    Raises:
        PlatformError: some of its processes cannot be ended.
    """
    supervisors = [p for p in map(_process, map(_read_json, _state_files(home))) if p is not None]
    ended = _end(home, supervisors, timeout_s)
    for file in _state_files(home):
        file.unlink(missing_ok=True)
    return ended


def check_port(host: str, port: int) -> None:
    """Raises PlatformError when something listens there already."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PlatformError(
                f"port {port} of {host} is taken by {port_holder(port)}"
                if error.errno == errno.EADDRINUSE
                else f"cannot listen on {host}:{port}: {error.strerror}",
                fix="stop it, or choose another: manta up --port N",
                code="port_in_use" if error.errno == errno.EADDRINUSE else "cannot_listen",
            ) from None


def check_memory(available: int) -> None:
    """Raises PlatformError when so many bytes are not enough to start."""
    if available < LEAST_MEMORY:
        raise PlatformError(
            f"{available / GIB:.1f} GiB of memory are available, {LEAST_MEMORY / GIB:.0f} are needed to start",
            fix="end other programs, or attach to a cluster: manta up --address HOST:PORT",
            code="not_enough_memory",
        )


def port_holder(port: int) -> str:
    """Who listens on a port, in words, as far as this user may know."""
    try:
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and tuple(connection.laddr)[1:] == (port,)
                and connection.pid
            ):
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        return "another process"
    return "another process"


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    if not log.is_file():
        return ""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")


def log_file(home: Path) -> Path:
    return home / "logs" / "supervisor.log"


def _make_home(home: Path) -> None:
    try:
        (home / "logs").mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise PlatformError(
            f"cannot use {home}: {error.strerror}", fix="choose another: --home DIR", code="home_unusable"
        ) from None


@contextmanager
def _start_lock(home: Path) -> Iterator[None]:
    """One start at a time for a home: a second one waits and then finds the first one's platform."""
    with (home / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _spawn(home: Path, command: list[str]) -> psutil.Process:
    # Lines of an earlier start must not be read as this one's.
    (home / "startup.jsonl").unlink(missing_ok=True)
    with log_file(home).open("ab") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=child_environment(**{MARK: str(home)}),
        )
    process = psutil.Process(child.pid)
    state = {"pid": child.pid, "created": process.create_time()}
    (home / "starting.json").write_text(json.dumps(state), encoding="utf-8")
    return process


def _until_ready(
    home: Path, process: psutil.Process, on_progress: Callable[[Progress], None], timeout_s: float
) -> PlatformInfo:
    tail, deadline = _Tail(home / "startup.jsonl"), time.monotonic() + timeout_s
    failed: Progress | None = None
    while True:
        # Looked at before the file is read: what a dead process wrote last is then read too.
        alive = _alive(process)
        for progress in tail.lines():
            on_progress(progress)
            if progress.state == "failed":
                failed = failed or progress
            if progress.component == "platform" and progress.state == "ready":
                return _described(home)
            if progress.component == "platform" and progress.state == "failed":
                alive = False
        if not alive:
            raise _start_failure(home, failed)
        if time.monotonic() > deadline:
            raise PlatformError(
                f"the platform is not ready in time; last: {tail.last or 'nothing'}",
                fix=f"see {log_file(home)}, or: manta doctor",
                code="start_timeout",
            )
        time.sleep(_POLL_S)


def _start_failure(home: Path, failed: Progress | None) -> PlatformError:
    """What the failed component said, as the error it was there; else the log's last line."""
    look = f"see {log_file(home)}, or: manta doctor"
    if failed is None:
        cause = last_line(log_file(home)) or "it wrote nothing"
        return PlatformError(f"the platform did not start: {cause}", fix=look, code="start_failed")
    part = "" if failed.component == "platform" else f"{failed.component}: "
    coded = _TOLD.fullmatch(failed.detail)
    if coded is None:
        return PlatformError(
            f"the platform did not start: {part}{failed.detail}", fix=look, code="start_failed"
        )
    code, cause, fix = coded.groups()
    return PlatformError(f"the platform did not start: {part}{cause}", fix=fix or look, code=code)


def check_alive(info: PlatformInfo, timeout_s: float = 10.0) -> None:
    """Raises PlatformError when a platform whose supervisor lives does not answer at its address."""
    try:
        httpx.get(f"{info.address}/healthz", timeout=timeout_s, trust_env=False).raise_for_status()
    except httpx.HTTPError as error:
        cause = f"the platform (process {info.pid}) does not answer at {info.address}: {type(error).__name__}"
        raise PlatformError(cause, fix="manta down, then manta up", code="platform_unhealthy") from None


def _described(home: Path) -> PlatformInfo:
    info = running(home)
    if info is None:
        raise PlatformError(
            f"the supervisor says it is ready, but {home / 'platform.json'} does not describe it",
            fix=f"see {log_file(home)}",
            code="start_failed",
        )
    return info


class _Tail:
    """Reads the lines of a growing JSONL file, each once, whole lines only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.last = ""

    def lines(self) -> Iterator[Progress]:
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                self._offset = self._offset if size >= self._offset else 0
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            with suppress(ValueError, KeyError, TypeError):
                data = json.loads(line)
                progress = Progress(
                    str(data["component"]),
                    str(data["state"]),
                    str(data.get("detail") or ""),
                    float(data.get("seconds") or 0),
                )
                self.last = f"{progress.component} {progress.state}"
                yield progress


def _stop_leftovers(home: Path) -> None:
    """A supervisor that was killed leaves its children; a new one would meet them on the same ports."""
    if _end(home, [], 0.0):
        (home / "platform.json").unlink(missing_ok=True)


def _end(home: Path, supervisors: list[psutil.Process], timeout_s: float) -> bool:
    """End supervisors and everything under them or marked as this home's. False: there was nothing."""
    family = _family(home, supervisors)
    if not family:
        return False
    for supervisor in supervisors:
        with suppress(psutil.NoSuchProcess):
            supervisor.terminate()
    # Nobody is left to end what a dead supervisor started: waiting for it would be in vain.
    deadline = time.monotonic() + (timeout_s if supervisors else 0.0)
    while (alive := {p for p in family if _alive(p)}) and time.monotonic() < deadline:
        psutil.wait_procs(list(alive), timeout=0.2)
        family |= _family(home, supervisors)
    # Children that were being started while others died are found by another look.
    for _ in range(10):
        alive = {p for p in family | _family(home, supervisors) if _alive(p)}
        if not alive:
            return True
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(list(alive), timeout=2)
    names = ", ".join(f"{p.pid}" for p in sorted(alive, key=lambda p: p.pid))
    raise PlatformError(
        f"processes {names} do not end", fix="end them as the user who started them", code="stop_failed"
    )


def _family(home: Path, supervisors: list[psutil.Process]) -> set[psutil.Process]:
    found = {p for p in supervisors if _alive(p)}
    for supervisor in supervisors:
        with suppress(psutil.NoSuchProcess):
            found |= set(supervisor.children(recursive=True))
    me = psutil.Process()
    mine = {me, *me.parents()}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process not in mine and process.environ().get(MARK) == str(home):
                found.add(process)
    return found - mine


def _alive(process: psutil.Process) -> bool:
    """False for a zombie too: it holds nothing but its number."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _process(data: dict[str, Any] | None) -> psutil.Process | None:
    """The living process that a state file names: same id and same start time."""
    if data is None:
        return None
    try:
        process = psutil.Process(int(data["pid"]))
        same = abs(process.create_time() - float(data["created"])) < _SAME_START_S
    except (psutil.Error, KeyError, TypeError, ValueError):
        return None
    return process if same and _alive(process) else None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _state_files(home: Path) -> list[Path]:
    return [home / "platform.json", home / "starting.json"]
