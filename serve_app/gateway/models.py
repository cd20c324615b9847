"""What the operators of models look at: replicas, the devices they hold, what they have done."""

from typing import Any

from fastapi import APIRouter

from serve_app.gateway.bodies import StrictRoute
from serve_app.gateway.deps import PlatformDep
from serve_app.gateway.errors import READING
from serve_app.gateway.openai import EMBEDDING_MODEL

router = APIRouter(tags=["models"], route_class=StrictRoute, responses=READING)


@router.get("/models/{name}/replicas")
async def list_replicas(name: str, platform: PlatformDep) -> list[dict[str, Any]]:
    if name == EMBEDDING_MODEL:
        return await platform.embedder.stats()
    return await platform.models.get(name).stats()
