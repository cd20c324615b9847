"""What the routes work with, and who is calling."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from manta.ids import DEFAULT_TENANT, Tenant
from manta.protocols import Artifacts
from serve_app.gateway.guard import LOOPBACK_HOSTS
from serve_app.models.handles import ServeEmbedder, ServeModels
from tools.actor import RemoteDocuments
from tools.ray_calls import NamedActor


@dataclass(frozen=True, slots=True)
class Platform:
    """The parts behind the gateway; handed in when its replica starts."""

    coordinator: NamedActor
    documents: RemoteDocuments
    artifacts: Artifacts
    models: ServeModels
    embedder: ServeEmbedder
    default_model: str
    allowed_hosts: tuple[str, ...] = LOOPBACK_HOSTS
    """Hosts that requests may name; none for any. See `guard.allowed_hosts`."""


@dataclass(frozen=True, slots=True)
class Caller:
    tenant: Tenant
    principal: str


def platform_of(request: Request) -> Platform:
    platform: Platform = request.app.state.platform
    return platform


def caller_of(request: Request) -> Caller:
    """On loopback without keys everyone is the default tenant."""
    return Caller(DEFAULT_TENANT, "local")


PlatformDep = Annotated[Platform, Depends(platform_of)]
CallerDep = Annotated[Caller, Depends(caller_of)]
