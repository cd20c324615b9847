"""Who answers: a model by its name, or a graph as `manta/NAME`."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from coordinator.store.records import RunRecord
from manta.errors import InvalidInput, NotFound
from manta.graph import Graph
from manta.ids import RunId
from manta.messages import ChatChunk, ChatRequest
from serve_app.gateway.agents import all_graphs
from serve_app.gateway.deps import Desk, Platform
from serve_app.gateway.errors import BadField
from serve_app.gateway.openai.bodies import RunOptions
from serve_app.gateway.openai.graph_inputs import GRAPH_PREFIX, check_request, does_not_fit, graph_input
from serve_app.gateway.openai.graph_runs import run_answer
from serve_app.gateway.run_bodies import RunCreate
from serve_app.gateway.run_starts import submit_for


@dataclass(frozen=True, slots=True)
class Answering:
    """An answer on its way; `run` is there where a graph gives it."""

    chunks: AsyncGenerator[ChatChunk, None]
    run: RunId | None = None


def is_graph(name: str) -> bool:
    """No model's name has a slash."""
    return name.startswith(GRAPH_PREFIX)


async def graph_behind(name: str, platform: Platform) -> Graph:
    """Raises NotFound, code `model_not_found`."""
    there = await all_graphs(platform)
    for graph in there:
        if f"{GRAPH_PREFIX}{graph.name}" == name:
            return graph
    known = ", ".join(f"{GRAPH_PREFIX}{graph.name}" for graph in there)
    raise NotFound(f"there is no model {name!r}", fix=f"graphs: {known}", code="model_not_found")


async def answering(
    desk: Desk,
    name: str,
    request: ChatRequest,
    options: RunOptions | None,
    metadata: Mapping[str, str] | None,
) -> Answering:
    """The answer of the model or graph of that name. A graph's run is durable when this returns.

    Raises:
        NotFound: there is none.
        BadField: the request is not for a graph, or its options not for a model.
    """
    if not is_graph(name):
        if options is not None:
            raise BadField(f"{name} is a model, not a graph", fix="leave manta out", param="manta")
        return Answering(desk.platform.models.get(name).stream(desk.addressed(request)))
    # Who closes the connection ends the work, so also while the run is being sent.
    record = await start_graph(desk, name, request, options, dict(metadata or {}), None, "cancel")
    return Answering(run_answer(desk, record), RunId(record.id))


async def start_graph(
    desk: Desk,
    name: str,
    request: ChatRequest,
    options: RunOptions | None,
    metadata: dict[str, Any],
    key: str | None,
    on_disconnect: Literal["cancel", "continue"] = "continue",
) -> RunRecord:
    """A run of the graph behind a name; it is durable when this returns.

    `on_disconnect`: what becomes of it when the client leaves while it is being sent.

    Raises:
        NotFound: there is none. BadField: the request is not for it.
        IdempotencyConflict: the key was used with another request.
    """
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
        on_disconnect=on_disconnect,
    )
    try:
        return await submit_for(desk, body, key)
    except InvalidInput as error:
        raise does_not_fit(error.message) from None
