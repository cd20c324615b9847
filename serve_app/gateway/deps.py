"""What the routes work with: the parts behind them, who is calling, and the ids and pages that a request names."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import Depends, Header, Path, Query
from pydantic import Field, WithJsonSchema
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from manta.errors import NotFound
from manta.ids import DEFAULT_TENANT, RunId, Tenant, ThreadId
from manta.protocols import Artifacts
from serve_app.gateway.guard import LOOPBACK_HOSTS
from serve_app.models.handles import ServeEmbedder, ServeModels
from tools.actor import RemoteDocuments

_FIXED = frozenset({"search", "stream", "wait"})
"""What stands in the place of an id in some paths."""
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Coordinator(Protocol):
    """A method of the coordinator service by its name; repeated while none answers, so each must be idempotent."""

    async def call(self, method: str, *arguments: Any, patience_s: float = ...) -> Any: ...


@dataclass(frozen=True, slots=True)
class Platform:
    """The parts behind the gateway; handed in when its replica starts."""

    coordinator: Coordinator
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


@dataclass(frozen=True, slots=True)
class Desk:
    """The coordinator as one caller may use it: every call is about the caller's own tenant."""

    platform: Platform
    caller: Caller

    async def call(self, method: str, *arguments: Any) -> Any:
        return await self.platform.coordinator.call(method, self.caller.tenant, *arguments)

    async def library(self, room: str, method: str, *arguments: Any) -> Any:
        """A method of a store room: `threads`, `items`, `schedules` or `feedback`."""
        return await self.platform.coordinator.call("library", room, method, self.caller.tenant, *arguments)


def platform_of(connection: HTTPConnection) -> Platform:
    platform: Platform = connection.app.state.platform
    return platform


def caller_of() -> Caller:
    """On loopback without keys everyone is the default tenant."""
    return Caller(DEFAULT_TENANT, "local")


PlatformDep = Annotated[Platform, Depends(platform_of)]
CallerDep = Annotated[Caller, Depends(caller_of)]


def desk_of(platform: PlatformDep, caller: CallerDep) -> Desk:
    return Desk(platform, caller)


DeskDep = Annotated[Desk, Depends(desk_of)]


def known_id(value: str, thing: str) -> str:
    """A UUID in its canonical form. Raises NotFound: nothing can be there under another."""
    if value in _FIXED:
        # A route of its own, asked with a method that it has not.
        raise HTTPException(405)
    value = value.lower()
    if not _UUID.fullmatch(value):
        raise NotFound(f"there is no such {thing}", fix="check its id")
    return value


_Id = Path(json_schema_extra={"format": "uuid"})


def run_of(run_id: Annotated[str, _Id]) -> RunId:
    return RunId(known_id(run_id, "run"))


def thread_of(thread_id: Annotated[str, _Id]) -> ThreadId:
    return ThreadId(known_id(thread_id, "thread"))


def schedule_of(schedule_id: Annotated[str, _Id]) -> str:
    return known_id(schedule_id, "schedule")


RunPath = Annotated[RunId, Depends(run_of)]
ThreadPath = Annotated[ThreadId, Depends(thread_of)]
SchedulePath = Annotated[str, Depends(schedule_of)]

IdempotencyKey = Annotated[
    str | None,
    Field(min_length=1, max_length=255, pattern=r"^[ -~]+$"),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"}),
    Header(alias="Idempotency-Key", description="The same key with the same body is the same run."),
]
PageLimit = Annotated[int, Query(ge=1, le=1000)]
PageOffset = Annotated[int, Query(ge=0, le=1_000_000)]
