"""What the routes work with: the parts behind them, who is calling, and the ids and pages that a request names."""

import dataclasses
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

from fastapi import Depends, Header, Path, Query
from pydantic import Field, WithJsonSchema
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from coordinator.store.keys import NOBODY
from manta.clock import Clock, SystemClock
from manta.errors import NotFound
from manta.ids import DEFAULT_TENANT, RunId, Tenant, ThreadId
from manta.messages import ChatRequest
from manta.protocols import Artifacts
from manta.usage import Budget
from serve_app.gateway.access.accounts import Account
from serve_app.gateway.access.gate import account_of
from serve_app.gateway.access.metered import MeteredEmbedder, MeteredModels
from serve_app.gateway.guard import LOOPBACK_HOSTS
from serve_app.models.handles import ServeEmbedder
from serve_app.models.platform_models import ServeModels
from tools.actor import RemoteDocuments
from tools.ray_calls import NamedActor

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
    keeper: NamedActor
    embedder: ServeEmbedder
    default_model: str
    allowed_hosts: tuple[str, ...] = LOOPBACK_HOSTS
    """Hosts that requests may name; none for any. See `guard.allowed_hosts`."""
    keys_always: bool = False
    """A key is asked for even while the journal has none."""
    cors_origins: tuple[str, ...] = ()
    clock: Clock = field(default_factory=SystemClock)


@dataclass(frozen=True, slots=True)
class Caller:
    """`account`: that of the caller's key; None where keys are not asked for, and everything is allowed."""

    tenant: Tenant
    principal: str
    account: Account | None = None


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

    def addressed(self, request: ChatRequest) -> ChatRequest:
        """The request with whose it is: of the caller's tenant, for the user it names or else for itself."""
        user = request.hints.user or self.caller.principal
        hints = dataclasses.replace(request.hints, tenant=self.caller.tenant, user=user)
        return dataclasses.replace(request, hints=hints)

    @asynccontextmanager
    async def starting_a_run(self) -> AsyncGenerator[Budget | None]:
        """Held while a run is sent off; gives what it may use at most besides its own budget.

        Raises:
            Forbidden, RateLimited, BudgetExceeded: the caller's key has no run to give now.
        """
        if self.caller.account is None:
            yield None
            return
        async with self.caller.account.starting_a_run() as cap:
            yield cap


async def platform_of(connection: HTTPConnection) -> Platform:
    """The parts as the caller may use them: what models are asked for is counted for the caller's key."""
    platform: Platform = connection.app.state.platform
    account = account_of(connection)
    if account is None:
        return platform
    models: Any = MeteredModels(platform.models, account)
    embedder: Any = MeteredEmbedder(platform.embedder, account)
    return dataclasses.replace(platform, models=models, embedder=embedder)


async def caller_of(connection: HTTPConnection) -> Caller:
    """Whoever the key is of; on loopback without keys everyone is the default tenant."""
    account = account_of(connection)
    if account is None:
        return Caller(DEFAULT_TENANT, NOBODY)
    return Caller(account.record.tenant, account.record.principal, account)


PlatformDep = Annotated[Platform, Depends(platform_of)]
CallerDep = Annotated[Caller, Depends(caller_of)]


async def desk_of(platform: PlatformDep, caller: CallerDep) -> Desk:
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


async def run_of(run_id: Annotated[str, _Id]) -> RunId:
    return RunId(known_id(run_id, "run"))


async def thread_of(thread_id: Annotated[str, _Id]) -> ThreadId:
    return ThreadId(known_id(thread_id, "thread"))


async def schedule_of(schedule_id: Annotated[str, _Id]) -> str:
    return known_id(schedule_id, "schedule")


RunPath = Annotated[RunId, Depends(run_of)]
ThreadPath = Annotated[ThreadId, Depends(thread_of)]
SchedulePath = Annotated[str, Depends(schedule_of)]

IdempotencyKey = Annotated[
    str | None,
    Field(min_length=1, max_length=255, pattern=r"^[ -~]+$"),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"}),
    Header(alias="Idempotency-Key", description="The same key with the same body is one request."),
]
PageLimit = Annotated[int, Query(ge=1, le=1000)]
PageOffset = Annotated[int, Query(ge=0, le=1_000_000)]
