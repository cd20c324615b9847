"""The process that owns a local platform: starts Ray, deploys, watches the coordinator, stops it all.

Ray's own processes are its children, so ending it ends them, and nothing else on the host.
"""

import contextlib
import json
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

import manta
from manta.config import Settings
from manta.errors import PlatformError
from manta.telemetry import get_logger

NAMESPACE = "manta"
WATCH_S = 2.0
SILENT_LIMIT_S = 20.0
"""A coordinator that has not answered for this long is killed, so that Ray restarts it: Ray never notices
one that is stopped or stuck."""

logger = get_logger("supervisor")


class Supervisor:
    """`run` returns when the platform was told to stop, after everything it started is gone."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._home = settings.home
        self._stop = threading.Event()
        self._began = time.monotonic()
        self._ray_address = ""
        self._dashboard = ""

    def run(self) -> None:
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self._home / "startup.jsonl").write_text("")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        with self._reported("platform"):
            self._check_free()
            with self._reported("ray"):
                self._start_ray()
        try:
            self._deploy()
            self._watch()
        finally:
            self._shut_down()

    def _deploy(self) -> None:
        from serve_app.app import deploy

        if self._stop.is_set():
            return
        with self._reported("platform", done=False):
            deploy(self._settings, self._report)
        self._write_state()
        self._report("platform", "ready", self._settings.address)

    def _check_free(self) -> None:
        other = running_supervisor(self._home)
        if other is not None:
            raise PlatformError(
                f"a platform runs already (process {other})",
                fix="`manta down` stops it",
                code="already_running",
            )
        host, port = self._settings.server.host, self._settings.server.port
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                fix = f"`manta up --port {port + 1}`, or stop what listens there"
                raise PlatformError(f"port {port} of {host} is in use", fix=fix, code="port_in_use") from None

    def _start_ray(self) -> None:
        import ray

        from serve_app.composition import shipped_folder

        settings = self._settings.ray
        common: dict[str, Any] = {
            "namespace": NAMESPACE,
            "runtime_env": shipped_folder(self._settings),
            "log_to_driver": False,
            "configure_logging": False,
        }
        if settings.address:
            ray.init(address=settings.address, **common)
        else:
            ray.init(
                address="local",
                num_cpus=settings.num_cpus,
                num_gpus=settings.num_gpus,
                resources=settings.resources or None,
                object_store_memory=settings.object_store_mb << 20,
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                dashboard_port=_dashboard_port(settings.dashboard_port),
                _temp_dir=str(ray_folder(self._home)),
                **common,
            )
        context = ray.get_runtime_context()
        self._ray_address = context.gcs_address
        self._dashboard = _dashboard_url()

    def _watch(self) -> None:
        """Kill a coordinator that no longer answers, from outside it; Ray starts it again."""
        answered = time.monotonic()
        while not self._stop.wait(WATCH_S):
            if _coordinator_answers():
                answered = time.monotonic()
            elif time.monotonic() - answered > SILENT_LIMIT_S:
                logger.error("the coordinator has not answered for %.0f s; restarting it", SILENT_LIMIT_S)
                _restart_coordinator()
                answered = time.monotonic()

    def _shut_down(self) -> None:
        import ray

        self._report("platform", "stopping", "")
        if ray.is_initialized():
            if not self._settings.ray.address:
                # Replicas of our own Ray go with it; waiting for streams to drain was the caller's to do.
                ray.shutdown()
            else:
                from serve_app.app import undeploy

                undeploy(self._settings)
                ray.shutdown()
        _end_children()
        (self._home / "platform.json").unlink(missing_ok=True)
        self._report("platform", "stopped", "")

    def _write_state(self) -> None:
        state = {
            "pid": os.getpid(),
            "created": psutil.Process().create_time(),
            "address": self._settings.address,
            "dashboard": self._dashboard,
            "ray_address": self._ray_address,
            "token_path": str(self._home / "ray_token"),
            "version": manta.__version__,
        }
        path = self._home / "platform.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(state))
        os.replace(temporary, path)

    def _report(self, component: str, state: str, detail: str) -> None:
        line = {
            "component": component,
            "state": state,
            "detail": detail,
            "seconds": round(time.monotonic() - self._began, 2),
        }
        with (self._home / "startup.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    @contextlib.contextmanager
    def _reported(self, component: str, done: bool = True) -> Iterator[None]:
        self._report(component, "starting", "")
        try:
            yield
        except Exception as error:
            self._report(component, "failed", " ".join(str(error).split()))
            raise
        if done and component != "platform":
            self._report(component, "ready", "")


def ray_folder(home: Path) -> Path:
    """A short path of our own for Ray's files: its sockets' paths have room for about 100 characters."""
    import hashlib

    name = hashlib.sha256(str(home).encode()).hexdigest()[:8]
    folder = Path(tempfile.gettempdir()) / f"manta-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def running_supervisor(home: Path) -> int | None:
    """The process id in platform.json, if that very process still runs."""
    try:
        state: dict[str, Any] = json.loads((home / "platform.json").read_text())
        process = psutil.Process(int(state["pid"]))
        same = abs(process.create_time() - float(state["created"])) < 1.0
    except (OSError, ValueError, KeyError, psutil.Error):
        return None
    return process.pid if same and process.status() != psutil.STATUS_ZOMBIE else None


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
    import ray

    url: str | None = ray._private.worker.get_dashboard_url()  # type: ignore[no-untyped-call]
    return f"http://{url}" if url else ""


def _coordinator_answers() -> bool:
    import ray

    from agents.actor import COORDINATOR

    try:
        ray.get(ray.get_actor(COORDINATOR, namespace=NAMESPACE).health.remote(), timeout=5)
    except (ValueError, ray.exceptions.RayError):
        return False
    return True


def _restart_coordinator() -> None:
    import ray

    from agents.actor import COORDINATOR

    with contextlib.suppress(ValueError):
        ray.kill(ray.get_actor(COORDINATOR, namespace=NAMESPACE), no_restart=False)


def _end_children() -> None:
    """What Ray left of its process tree: first asked to end, then made to."""
    children = psutil.Process().children(recursive=True)
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                end(child)
        _, children = psutil.wait_procs(children, timeout=5)
