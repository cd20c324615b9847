"""A platform of the benchmark's own on real Ray Serve, and the memory of its model's replica."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from ray import serve

from benchmarks.local_ray import actor_processes, local_ray
from manta.config import Settings
from serve_app.app import deploy
from serve_app.backends.server_process import free_port

MODEL = "smollm2"
MOST_AT_ONCE = 32


@contextlib.contextmanager
def served(home: Path, quantize: str, threads: int, speculate: int) -> Iterator[str]:
    """The URL of a whole platform with one model; at the end all of it is gone."""
    model = {
        "quantize": quantize,
        "speculate": speculate,
        "dtype": "auto",
        "threads": threads,
        "max_batch": MOST_AT_ONCE,
        "replicas": {"max_ongoing": 2 * MOST_AT_ONCE},
    }
    settings = Settings.model_validate(
        {
            "home": home,
            "server": {"port": free_port("127.0.0.1")},
            "models": {MODEL: model},
            "default_model": MODEL,
        }
    )
    with local_ray():
        deploy(settings)
        try:
            yield settings.address
        finally:
            end: Callable[[], None] = serve.shutdown
            end()


def replica_memory_mib() -> int:
    """The proportional set size of the model's replicas."""
    found = actor_processes(f"ray::ServeReplica:manta-model-{MODEL}-v1:")
    return round(sum(process.memory_full_info().pss for process in found) / 2**20)
