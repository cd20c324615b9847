"""What can be run: graphs, as the Agent Protocol's agents."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from manta.errors import NotFound
from manta.graph import Graph
from serve_app.gateway.bodies import StrictRoute
from serve_app.gateway.deps import Platform, PlatformDep

router = APIRouter(tags=["agents"], route_class=StrictRoute)


class AgentSearch(BaseModel):
    model_config = ConfigDict(extra="ignore")
    name: str | None = None
    metadata: dict[str, Any] | None = None
    limit: int = Field(10, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=1_000_000)


@router.post("/agents/search")
async def search_agents(body: AgentSearch, platform: PlatformDep) -> list[dict[str, Any]]:
    found = [
        _agent(graph) for graph in await _graphs(platform) if body.name is None or body.name in graph.name
    ]
    wanted = body.metadata or {}
    matching = [agent for agent in found if all(agent["metadata"].get(k) == v for k, v in wanted.items())]
    return matching[body.offset : body.offset + body.limit]


@router.get("/agents/{agent_id}")
async def get_agent(agent_id: str, platform: PlatformDep) -> dict[str, Any]:
    return _agent(await _graph(platform, agent_id))


@router.get("/agents/{agent_id}/schemas")
async def get_schemas(agent_id: str, platform: PlatformDep) -> dict[str, Any]:
    graph = await _graph(platform, agent_id)
    anything: dict[str, Any] = {"type": "object"}
    return {"agent_id": graph.name, "input_schema": graph.input_schema or anything, "output_schema": anything}


@router.get("/graphs")
async def list_graphs(platform: PlatformDep) -> list[dict[str, Any]]:
    return [
        {"name": g.name, "description": g.description, "version": g.version, "input_schema": g.input_schema}
        for g in await _graphs(platform)
    ]


async def _graphs(platform: Platform) -> list[Graph]:
    graphs: list[Graph] = await platform.coordinator.call("graphs")
    return sorted(graphs, key=lambda graph: graph.name)


async def _graph(platform: Platform, name: str) -> Graph:
    graphs = await _graphs(platform)
    for graph in graphs:
        if graph.name == name:
            return graph
    there = ", ".join(graph.name for graph in graphs)
    raise NotFound(f"there is no graph {name!r}", fix=f"one of: {there}", code="unknown_graph")


def _agent(graph: Graph) -> dict[str, Any]:
    return {
        "agent_id": graph.name,
        "name": graph.name,
        "description": graph.description,
        "metadata": {"version": graph.version, "steps": [step.id for step in graph.steps]},
        "capabilities": {"ap.io.messages": False, "ap.io.streaming": True},
    }
