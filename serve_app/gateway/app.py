"""The gateway's ASGI application, and the Serve deployment around it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from ray import serve
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

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
from serve_app.gateway.access.gate import Access, Gate
from serve_app.gateway.access.meters import tell_all
from serve_app.gateway.access.scopes import needed
from serve_app.gateway.bodies import BodyLimit
from serve_app.gateway.deps import Platform
from serve_app.gateway.envelope import REQUEST_ID, Envelope
from serve_app.gateway.guard import HostGuard
from serve_app.gateway.openai.routing import RUN_HEADER

ROOMS = (
    openai,
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
)


_LIMIT_HEADERS = tuple(
    f"x-ratelimit-{what}-{unit}"
    for what in ("limit", "remaining", "reset")
    for unit in ("requests", "tokens")
)


class Api(FastAPI):
    def build_middleware_stack(self) -> ASGIApp:
        """Around all of it, the answers to defects too."""
        stack = super().build_middleware_stack()
        origins = self.state.platform.cors_origins
        if origins:
            stack = CORSMiddleware(
                stack,
                allow_origins=origins,
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=[REQUEST_ID, "Retry-After", RUN_HEADER, *_LIMIT_HEADERS],
            )
        return Envelope(stack, cors=bool(origins))

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        for path, operations in document["paths"].items():
            for operation in operations.values() if errors.is_openai(path) else ():
                # FastAPI's own word for what is answered there with 400.
                operation["responses"].pop("422", None)
            _declare_keys(path, operations)
        return document


def _declare_keys(path: str, operations: dict[str, Any]) -> None:
    shape = errors.OpenAIErrorJson if errors.is_openai(path) else errors.ErrorJson
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{shape.__name__}"}}}
    for method, operation in operations.items():
        if needed(method.upper(), path) != "nothing":
            answer = {"description": errors.declared(401)[401]["description"], "content": content}
            operation["responses"]["401"] = answer


def build_api(platform: Platform) -> FastAPI:
    access = Access(platform.coordinator, platform.clock, always=platform.keys_always)

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncGenerator[None]:
        yield
        await tell_all(access.meters)

    api = Api(
        title="Manta",
        version=manta.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=_operation_id,
    )
    api.state.platform = platform
    shared = _routes()
    api.router.routes.extend(shared.routes)
    # Where the shared routes look for them.
    api.dependency_overrides = shared.dependency_overrides
    errors.install(api)
    # The one added last is asked first.
    api.add_middleware(BodyLimit)
    api.add_middleware(Gate, access=access)
    api.add_middleware(HostGuard, hosts=platform.allowed_hosts, origins=platform.cors_origins)
    return api


@cache
def _routes() -> FastAPI:
    """All routes, made once for every gateway in a process: FastAPI takes half a second of processor time over them."""
    routes = FastAPI(
        openapi_url=None, docs_url=None, redoc_url=None, generate_unique_id_function=_operation_id
    )
    for room in ROOMS:
        routes.include_router(room.router)
    return routes


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
