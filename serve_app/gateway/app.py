"""The gateway's ASGI application, and the Serve deployment around it."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from ray import serve

import manta
from manta.telemetry import configure_logging
from serve_app.gateway import (
    agents,
    commands,
    documents,
    errors,
    health,
    items,
    models,
    openai,
    page,
    run_control,
    run_streams,
    runs,
    schedules,
    thread_socket,
    thread_streams,
    threads,
)
from serve_app.gateway.bodies import BodyLimit
from serve_app.gateway.deps import Platform
from serve_app.gateway.guard import HostGuard

ROOMS = (
    page,
    health,
    agents,
    runs,
    run_streams,
    run_control,
    threads,
    thread_streams,
    thread_socket,
    commands,
    items,
    schedules,
    documents,
    models,
    openai,
)


class Api(FastAPI):
    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        for path, operations in document["paths"].items():
            for operation in operations.values() if errors.is_openai(path) else ():
                # FastAPI's own word for what is answered there with 400.
                operation["responses"].pop("422", None)
        return document


def build_api(platform: Platform) -> FastAPI:
    api = Api(
        title="Manta",
        version=manta.__version__,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=_operation_id,
    )
    api.state.platform = platform
    for room in ROOMS:
        api.include_router(room.router)
    errors.install(api)
    # The one added last is asked first.
    api.add_middleware(BodyLimit)
    api.add_middleware(HostGuard, hosts=platform.allowed_hosts)
    return api


def _operation_id(route: APIRoute) -> str:
    """The function's name: on the Agent Protocol's routes it is the protocol's own."""
    return route.name


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
