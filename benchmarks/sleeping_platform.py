"""A whole platform of the benchmark's own whose models sleep, a key to its gateway, and what replicas tell."""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import serve

from agents.actor import COORDINATOR
from benchmarks.local_ray import local_ray
from manta.config import Settings
from manta.ids import DEFAULT_TENANT
from serve_app.app import deploy
from serve_app.backends.server_process import free_port
from serve_app.models.deployment import DEPLOYMENT
from tools.ray_calls import NamedActor

CPUS = 4
ASLEEP: dict[str, Any] = {"smollm2": {"replicas": {"num_cpus": 0.02}}}
"""The model that is there unless it is said otherwise: it must not take memory and time."""


@dataclass(frozen=True, slots=True)
class Running:
    """`key`: of a caller who may ask models, without limits. `apps`: the Serve application of each model.
    `deployed_s`: from nothing to ready, Ray and all.
    """

    url: str
    key: str
    apps: Mapping[str, str]
    deployed_s: float


@contextlib.contextmanager
def running(home: Path, models: dict[str, dict[str, Any]]) -> Iterator[Running]:
    """The platform with models of these settings; at the end all of it is gone."""
    settings = Settings.model_validate(
        {
            "home": home,
            "server": {"port": free_port("127.0.0.1")},
            "models": {name: {"backend": "sleep", **model} for name, model in (ASLEEP | models).items()},
            "default_model": next(iter(models)),
        }
    )
    began = time.monotonic()
    with local_ray(num_cpus=CPUS):
        deploy(settings)
        try:
            seconds = time.monotonic() - began
            apps = {name: _model_app(name) for name in models}
            yield Running(settings.address, asyncio.run(_new_key()), apps, seconds)
        finally:
            end: Callable[[], None] = serve.shutdown
            end()


async def _new_key() -> str:
    made = await NamedActor(COORDINATOR).call(
        "library", "keys", "create", DEFAULT_TENANT, "benchmark", ("chat", "runs:read")
    )
    return str(made.text)


def _model_app(model: str) -> str:
    """The application that serves a model; behind the model's name its own may have a version."""
    named = re.compile(rf"manta-model-{re.escape(model)}-v\d+")
    return next(name for name in serve.status().applications if named.fullmatch(name))


class ModelReplicas:
    """What the model's replicas count, asked of all of them."""

    def __init__(self, app: str) -> None:
        self._handle = serve.get_deployment_handle(DEPLOYMENT, app_name=app)

    async def stats(self) -> list[dict[str, Any]]:
        return list(await self._handle.broadcast("stats").results_async())
