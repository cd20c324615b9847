"""/v1/models: models, the embedder, and every graph as `manta/NAME`."""

from typing import Any

from serve_app.gateway.agents import all_graphs
from serve_app.gateway.deps import PlatformDep
from serve_app.gateway.openai.embeddings import EMBEDDING_MODEL
from serve_app.gateway.openai.graph_inputs import GRAPH_PREFIX
from serve_app.gateway.openai.routing import openai_router
from serve_app.gateway.openai.sources import graph_behind, is_graph

router = openai_router()


@router.get("/models")
async def list_models(platform: PlatformDep) -> dict[str, Any]:
    names = [*platform.models.names, EMBEDDING_MODEL]
    names += [f"{GRAPH_PREFIX}{graph.name}" for graph in await all_graphs(platform)]
    return {"object": "list", "data": [_model(name) for name in names]}


@router.get("/models/{name:path}")
async def get_model(name: str, platform: PlatformDep) -> dict[str, Any]:
    if is_graph(name, platform):
        await graph_behind(name, platform)
    elif name != EMBEDDING_MODEL:
        platform.models.get(name)
    return _model(name)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "manta"}
