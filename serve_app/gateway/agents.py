"""What can be run: graphs, as the Agent Protocol's agents."""

from typing import Annotated, Any

from fastapi import APIRouter, Path
from typing_extensions import TypedDict

from manta.errors import NotFound
from manta.graph import Graph
from serve_app.gateway.bodies import StrictRoute
from serve_app.gateway.body_types import Body, Limit, Metadata, Offset
from serve_app.gateway.deps import Platform, PlatformDep
from serve_app.gateway.errors import TAKING
from serve_app.gateway.hidden_graphs import HIDDEN

router = APIRouter(tags=["agents"], route_class=StrictRoute, responses=TAKING)

AgentId = Annotated[str, Path(min_length=1, max_length=255)]


class AgentSearch(Body):
    name: str | None = None
    """A part of the name."""
    metadata: Metadata | None = None
    limit: Limit = 10
    offset: Offset = 0


Capabilities = TypedDict("Capabilities", {"ap.io.messages": bool, "ap.io.streaming": bool})


class AgentMetadata(TypedDict):
    version: str
    steps: list[str]


class AgentJson(TypedDict):
    """The protocol's `Agent`: a graph."""

    agent_id: str
    name: str
    description: str
    metadata: AgentMetadata
    capabilities: Capabilities


class AgentSchemaJson(TypedDict):
    """The protocol's `AgentSchema`."""

    agent_id: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]


class GraphJson(TypedDict):
    name: str
    description: str
    version: str
    input_schema: dict[str, Any]
    chat: bool


@router.post("/agents/search")
async def search_agents(body: AgentSearch, platform: PlatformDep) -> list[AgentJson]:
    named = [_agent(graph) for graph in await all_graphs(platform) if (body.name or "") in graph.name]
    matching = [agent for agent in named if _has(agent["metadata"], body.metadata or {})]
    return matching[body.offset : body.offset + body.limit]


@router.get("/agents/{agent_id}")
async def get_agent(agent_id: AgentId, platform: PlatformDep) -> AgentJson:
    return _agent(await graph_named(platform, agent_id))


@router.get("/agents/{agent_id}/schemas")
async def get_agent_schemas(agent_id: AgentId, platform: PlatformDep) -> AgentSchemaJson:
    graph = await graph_named(platform, agent_id)
    anything: dict[str, Any] = {"type": "object"}
    return {"agent_id": graph.name, "input_schema": graph.input_schema or anything, "output_schema": anything}


@router.get("/graphs")
async def list_graphs(platform: PlatformDep) -> list[GraphJson]:
    return [
        {
            "name": graph.name,
            "description": graph.description,
            "version": graph.version,
            "input_schema": graph.input_schema,
            "chat": graph.chat,
        }
        for graph in await all_graphs(platform)
    ]


async def all_graphs(platform: Platform) -> list[Graph]:
    """Every graph there is, by name; without those that the gateway runs for itself."""
    graphs: list[Graph] = await platform.coordinator.call("graphs")
    return sorted((graph for graph in graphs if graph.name not in HIDDEN), key=lambda graph: graph.name)


async def graph_named(platform: Platform, name: str) -> Graph:
    """Raises NotFound, code `unknown_graph`."""
    graphs = await all_graphs(platform)
    for graph in graphs:
        if graph.name == name:
            return graph
    there = ", ".join(graph.name for graph in graphs)
    raise NotFound(f"there is no graph {name!r}", fix=f"one of: {there}", code="unknown_graph")


def _agent(graph: Graph) -> AgentJson:
    return {
        "agent_id": graph.name,
        "name": graph.name,
        "description": graph.description,
        "metadata": {"version": graph.version, "steps": [step.id for step in graph.steps]},
        "capabilities": {"ap.io.messages": graph.chat, "ap.io.streaming": True},
    }


def _has(metadata: AgentMetadata, wanted: Metadata) -> bool:
    return all(metadata.get(name) == value for name, value in wanted.items())
