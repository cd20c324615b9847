"""A Ray of the benchmark's own: started with it, ended with it, apart from any other on the host."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import ray

from tools.ray_calls import NAMESPACE


@contextlib.contextmanager
def local_ray(num_cpus: int = 4) -> Iterator[None]:
    """Starts Ray; at the end every process of it is gone."""
    # Ray's sockets need a short path.
    folder = Path(tempfile.mkdtemp(prefix="mb-", dir="/tmp"))
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            num_gpus=0,
            namespace=NAMESPACE,
            object_store_memory=150 << 20,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=str(folder),
        )
        yield
    finally:
        family = psutil.Process().children(recursive=True)
        ray.shutdown()
        _end(family)
        shutil.rmtree(folder, ignore_errors=True)


def actor_processes(title: str) -> list[psutil.Process]:
    """Processes of our Ray whose title begins so, `ray::CoordinatorActor` say."""
    return [process for process, found in _titles() if found.startswith(title)]


def cpu_seconds() -> dict[str, float]:
    """Processor time used so far: of this process, of each kind of actor, and of Ray's own processes together."""
    times = psutil.Process().cpu_times()
    used = {"driver": times.user + times.system}
    for process, title in _titles():
        kind = title.removeprefix("ray::").split(".")[0] if title.startswith("ray::") else "Ray itself"
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            used[kind] = used.get(kind, 0.0) + times.user + times.system
    return used


def _titles() -> Iterator[tuple[psutil.Process, str]]:
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            yield process, " ".join(process.cmdline()).strip()


def _end(family: list[psutil.Process]) -> None:
    left = family
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                end(process)
        _, left = psutil.wait_procs(left, timeout=5)
