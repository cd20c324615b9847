"""The process that owns a local platform: starts Ray, deploys, watches the coordinator, stops it all.

Ray's own processes are its children, so ending it ends them, and nothing else on the host.
"""

import contextlib
import hashlib
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import ray

import manta
from manta.config import Settings, ray_token_file
from manta.errors import PlatformError
from manta.platform_process import check_port, running
from manta.telemetry import get_logger
from serve_app.app import deploy, undeploy
from serve_app.composition import Composition
from serve_app.coordinators import coordinator_names
from tools.ray_calls import NAMESPACE

WATCH_S = 2.0
SILENT_LIMIT_S = 20.0
"""A coordinator that has not answered for this long is killed, so that Ray restarts it: Ray never notices
one that is stopped or stuck."""

logger = get_logger("supervisor")


class Supervisor:
    """`run` ends when the process is told to stop, after everything it started is gone."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._home = settings.home
        self._began = time.monotonic()
        self._family: set[psutil.Process] = set()
        self._ray_lives = True

    def run(self) -> None:
        """Raises MantaError when the platform cannot start; startup.jsonl has named the part."""
        self._refuse_a_second()
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self._home / "startup.jsonl").write_text("")
        _exit_on(signal.SIGTERM, signal.SIGINT)
        try:
            with self._reported("platform"):
                self._check()
                with self._reported("ray"):
                    self._start_ray()
                self._report("ray", "ready")
                deploy(self._settings, self._report)
            self._write_state()
            self._report("platform", "ready", self._settings.address)
            self._watch()
        finally:
            self._shut_down()

    def _refuse_a_second(self) -> None:
        """Before anything of the home is touched: it is the other's."""
        other = running(self._home)
        if other is not None:
            cause = f"a platform runs already, process {other.pid}"
            raise PlatformError(cause, fix="`manta down` stops it", code="already_running")

    def _check(self) -> None:
        """What can be known to be wrong before anything is started."""
        check_port(self._settings.server.host, self._settings.server.port)
        Composition(self._settings).check()

    def _start_ray(self) -> None:
        settings = self._settings.ray
        common: dict[str, Any] = {
            "namespace": NAMESPACE,
            "runtime_env": Composition(self._settings).shipped_folder(),
            "log_to_driver": False,
            "configure_logging": False,
        }
        if settings.address:
            ray.init(address=settings.address, **common)
            return
        ray.init(
            address="local",
            num_cpus=settings.num_cpus,
            num_gpus=settings.num_gpus,
            resources=settings.resources or None,
            object_store_memory=settings.object_store_mb << 20,
            include_dashboard=settings.dashboard,
            dashboard_host="127.0.0.1",
            dashboard_port=_dashboard_port(settings.dashboard_port),
            _temp_dir=str(ray_folder(self._home)),
            **common,
        )

    def _watch(self) -> None:
        """Until told to stop: kill a coordinator that no longer answers, from outside it; Ray restarts it."""
        names = coordinator_names(self._settings.coordinator)
        answered = dict.fromkeys(names, time.monotonic())
        core = _core_processes()
        while True:
            time.sleep(WATCH_S)
            self._family.update(psutil.Process().children(recursive=True))
            if not all(_lives(process) for process in core):
                self._ray_lives = False
                raise PlatformError("a process of Ray's own died", fix="manta up", code="ray_died")
            for name in names:
                if _answers(name):
                    answered[name] = time.monotonic()
                elif time.monotonic() - answered[name] > SILENT_LIMIT_S:
                    logger.error("%s has not answered for %.0f s; restarting it", name, SILENT_LIMIT_S)
                    _restart(name)
                    answered[name] = time.monotonic()

    def _shut_down(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        self._report("platform", "stopping")
        try:
            # On a Ray of our own everything goes with it.
            if ray.is_initialized() and self._settings.ray.address:
                undeploy(self._settings)
        finally:
            if self._ray_lives:
                ray.shutdown()
            self._end_family()
            (self._home / "platform.json").unlink(missing_ok=True)
            self._report("platform", "stopped")

    def _end_family(self) -> None:
        """What Ray left of its process tree, orphans too: first asked to end, then made to."""
        left = list(self._family.union(psutil.Process().children(recursive=True)))
        for end in (psutil.Process.terminate, psutil.Process.kill):
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    end(process)
            _, left = psutil.wait_procs(left, timeout=5)

    def _write_state(self) -> None:
        state = {
            "pid": os.getpid(),
            "created": psutil.Process().create_time(),
            "address": self._settings.address,
            "dashboard": _dashboard_url(),
            "ray_address": ray.get_runtime_context().gcs_address,
            "token_path": str(ray_token_file(self._settings)),
            "version": manta.__version__,
        }
        path = self._home / "platform.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(state))
        os.replace(temporary, path)

    def _report(self, component: str, state: str, detail: str = "") -> None:
        seconds = round(time.monotonic() - self._began, 2)
        line = {"component": component, "state": state, "detail": detail, "seconds": seconds}
        with (self._home / "startup.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    @contextlib.contextmanager
    def _reported(self, component: str) -> Iterator[None]:
        """Says that a part starts, and if so that it failed; it is ready when its maker says so."""
        self._report(component, "starting")
        try:
            yield
        except Exception as error:
            self._report(component, "failed", " ".join(str(error).split()))
            raise


def ray_folder(home: Path) -> Path:
    """A short path of our own for Ray's files: its sockets' paths have room for about 100 characters."""
    name = hashlib.sha256(str(home).encode()).hexdigest()[:8]
    folder = Path(tempfile.gettempdir()) / f"manta-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    # Ray opens its own folder to every user, hence one within.
    inner = folder / "r"
    for path in (folder, inner):
        # In a folder that all can write to, names can be taken; whoever owns this one would own Ray's sockets.
        if path.is_symlink() or (path.exists() and path.lstat().st_uid != os.getuid()):
            raise PlatformError(
                f"{path} belongs to another user", fix="have it removed", code="unsafe_folder"
            )
    folder.chmod(0o700)
    return inner


def _exit_on(*numbers: signal.Signals) -> None:
    """Leave by the way of `finally`, from wherever the start or the watch happens to be."""

    def leave(number: int, frame: Any) -> None:
        sys.exit(0)

    for number in numbers:
        signal.signal(number, leave)


def _dashboard_port(wanted: int) -> int:
    """The wanted port, or a free one: Ray does not look for another itself when it is told one."""
    for candidate in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    return wanted


def _dashboard_url() -> str:
    url: str | None = ray._private.worker.get_dashboard_url()  # type: ignore[no-untyped-call]
    return f"http://{url}" if url else ""


def _core_processes() -> list[psutil.Process]:
    """Ray's control service and node manager, where they are this process's own: nothing works without them."""
    names = ("gcs_server", "raylet")
    return [child for child in psutil.Process().children() if child.name() in names]


def _answers(coordinator: str) -> bool:
    try:
        ray.get(ray.get_actor(coordinator, namespace=NAMESPACE).health.remote(), timeout=5)
    except (ValueError, ray.exceptions.RayError):
        return False
    return True


def _restart(coordinator: str) -> None:
    with contextlib.suppress(ValueError):
        ray.kill(ray.get_actor(coordinator, namespace=NAMESPACE), no_restart=False)


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
