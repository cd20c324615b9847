"""What the operators of models look at: replicas, the devices they hold, what they have done."""

from typing import Any

from fastapi import APIRouter

from serve_app.gateway.bodies import StrictRoute
from serve_app.gateway.deps import PlatformDep

router = APIRouter(tags=["models"], route_class=StrictRoute)


@router.get("/models/{name}/replicas")
async def list_replicas(name: str, platform: PlatformDep) -> list[dict[str, Any]]:
    return await platform.models.get(name).stats()
