"""Runs that routes of OpenAI's start and do not wait for."""

from typing import Any

from coordinator.store.records import RunRecord
from manta.errors import IdempotencyConflict, InvalidInput
from manta.messages import ChatRequest
from serve_app.gateway.deps import Desk
from serve_app.gateway.errors import BadField
from serve_app.gateway.openai.bodies import RunOptions
from serve_app.gateway.openai.graph_inputs import check_request, does_not_fit, graph_input
from serve_app.gateway.openai.sources import graph_behind
from serve_app.gateway.run_bodies import RunCreate
from serve_app.gateway.run_starts import submit


async def send(desk: Desk, body: RunCreate, key: str | None) -> RunRecord:
    """Durable when this returns. Raises BadField where the key was used with another request."""
    try:
        return await submit(desk, body, key)
    except IdempotencyConflict as error:
        raise BadField(error.message, fix=error.fix, code=error.code) from None


async def send_graph(
    desk: Desk,
    name: str,
    request: ChatRequest,
    options: RunOptions | None,
    metadata: dict[str, Any],
    key: str | None,
) -> RunRecord:
    """A run of the graph behind a name. Raises NotFound, and BadField for a request that is not for it."""
    graph = await graph_behind(name, desk.platform)
    check_request(graph, request)
    options = options or RunOptions()
    body = RunCreate(
        agent_id=graph.name,
        input=graph_input(graph, request.messages, options.input),
        metadata=metadata,
        thread_id=options.thread_id,
        budget=options.budget,
        priority=options.priority,
        timeout_s=options.timeout_s,
    )
    try:
        return await send(desk, body, key)
    except BadField:
        raise
    except InvalidInput as error:
        raise does_not_fit(error.message) from None
