"""Requests that are sent again because their answer was lost: by the gateway, while the coordinator restarts, and by
callers, who then name the request by an Idempotency-Key."""

import contextlib
import uuid
from collections.abc import Awaitable
from typing import Annotated, TypeAlias

from fastapi import Depends

from manta.errors import NotFound
from serve_app.gateway.deps import Desk, IdempotencyKey

_IDS = uuid.UUID("8f0d3a52-64f1-5d0e-9c35-0c1f5b0b6a77")


async def request_key(key: IdempotencyKey = None) -> str:
    """The caller's key, or a private one: the coordinator may be told of the request more than once."""
    return key or f"once-{uuid.uuid4()}"


RequestKey: TypeAlias = Annotated[str, Depends(request_key)]


def made_id(desk: Desk, what: str, key: str) -> str:
    """The id of what a request makes: the same for each try."""
    return str(uuid.uuid5(_IDS, f"{desk.caller.tenant}\n{what}\n{key}"))


async def gone(deletion: Awaitable[None]) -> None:
    """Deletes what was there when the request came. Not to find it any more is what an earlier try leaves."""
    with contextlib.suppress(NotFound):
        await deletion
