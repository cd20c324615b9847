"""Runs that routes of OpenAI's start and do not wait for."""

from collections.abc import Awaitable
from typing import Any

from coordinator.store.records import RunRecord
from manta.errors import IdempotencyConflict
from manta.messages import ChatRequest
from serve_app.gateway.deps import Desk
from serve_app.gateway.errors import BadField
from serve_app.gateway.openai.bodies import RunOptions
from serve_app.gateway.openai.sources import start_graph
from serve_app.gateway.run_bodies import RunCreate
from serve_app.gateway.run_starts import submit


async def send(desk: Desk, body: RunCreate, key: str | None) -> RunRecord:
    """Durable when this returns. Raises BadField where the key was used with another request."""
    return await _sent(submit(desk, body, key))


async def send_graph(
    desk: Desk,
    name: str,
    request: ChatRequest,
    options: RunOptions | None,
    metadata: dict[str, Any],
    key: str | None,
) -> RunRecord:
    """A run of the graph behind a name. Raises NotFound, and BadField for a request that is not for it."""
    return await _sent(start_graph(desk, name, request, options, metadata, key))


async def _sent(run: Awaitable[RunRecord]) -> RunRecord:
    try:
        return await run
    except IdempotencyConflict as error:
        raise BadField(error.message, fix=error.fix, code=error.code) from None
