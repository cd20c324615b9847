"""/v1/models: models, the embedder, and every graph as `manta/NAME`."""

from collections.abc import Mapping
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
    names = [*await platform.models.names(), *platform.models.routers, EMBEDDING_MODEL]
    names += [f"{GRAPH_PREFIX}{graph.name}" for graph in await all_graphs(platform)]
    windows = await platform.models.windows()
    return {"object": "list", "data": [_model(name, windows) for name in names]}


@router.get("/models/{name:path}")
async def get_model(name: str, platform: PlatformDep) -> dict[str, Any]:
    if is_graph(name):
        await graph_behind(name, platform)
    elif name != EMBEDDING_MODEL:
        await platform.models.require(name)
    return _model(name, await platform.models.windows())


def _model(name: str, windows: Mapping[str, int]) -> dict[str, Any]:
    """`max_model_len` is vLLM's; it is there where the window is known."""
    told = {"id": name, "object": "model", "created": 0, "owned_by": "manta"}
    return {**told, "max_model_len": windows[name]} if name in windows else told
