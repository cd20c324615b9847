"""The gateway's ASGI application, and the Serve deployment around it."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from ray import serve

import manta
from manta.telemetry import configure_logging
from serve_app.gateway import agents, documents, errors, health, models, openai, page, runs
from serve_app.gateway.bodies import BodyLimit
from serve_app.gateway.deps import Platform
from serve_app.gateway.guard import HostGuard


def build_api(platform: Platform) -> FastAPI:
    api = FastAPI(title="Manta", version=manta.__version__, docs_url=None, redoc_url=None)
    api.state.platform = platform
    for room in (page, health, runs, agents, documents, models, openai):
        api.include_router(room.router)
    errors.install(api)
    # The one added last is asked first.
    api.add_middleware(BodyLimit)
    api.add_middleware(HostGuard, hosts=platform.allowed_hosts)
    return api


def gateway_application(connect: Callable[[], Platform], log_level: str) -> serve.Application:
    """The gateway as a Serve application; `connect` runs in its replica."""

    def build() -> Any:
        configure_logging(log_level)
        return build_api(connect())

    ingress: Any = serve.ingress(build)()
    deployment: Any = serve.deployment(
        name="gateway",
        max_ongoing_requests=4096,
        ray_actor_options={"num_cpus": 0.1},
        graceful_shutdown_timeout_s=5,
    )
    return deployment(ingress).bind()
