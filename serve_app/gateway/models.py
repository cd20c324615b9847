"""What the operators of models see and change: versions, routes, replicas. Manta's own routes.

A change is kept when it is answered; what it needs is deployed behind it, and the earlier route serves until then.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import WithJsonSchema

from serve_app.gateway.bodies import StrictRoute
from serve_app.gateway.deps import IdempotencyKey, PlatformDep
from serve_app.gateway.errors import READING, TAKING, declared
from serve_app.gateway.model_comparison import ComparisonJson, comparison_json
from serve_app.gateway.model_desk import ModelDeskDep, ModelPath, VersionPath
from serve_app.gateway.model_shapes import (
    ModelJson,
    Promotion,
    ReplicasPatch,
    RouteJson,
    SplitBody,
    VersionCreate,
    VersionJson,
)
from serve_app.gateway.openai import EMBEDDING_MODEL

router = APIRouter(tags=["models"], route_class=StrictRoute, responses=READING)

CHANGING = declared(409)
Revision = Annotated[
    int | None,
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 999_999_999}),
    Query(ge=1, le=999_999_999, description="Of the route; without it the newest with several versions."),
]


@router.get("/models")
async def managed_models(desk: ModelDeskDep) -> list[ModelJson]:
    """Every model with its versions, its route and the route that is to follow."""
    return await desk.shown(await desk.ask("list"))


@router.get("/models/{name}")
async def managed_model(name: ModelPath, desk: ModelDeskDep) -> ModelJson:
    (model,) = await desk.shown([await desk.ask("get", name)])
    return model


@router.post("/models/{name}/versions", responses={**TAKING, **CHANGING})
async def add_model_version(
    name: str, body: VersionCreate, desk: ModelDeskDep, key: IdempotencyKey = None
) -> VersionJson:
    """The first version of a name gets all of its calls once it is up; a later one gets none until it is promoted."""
    return await desk.add(name, body.settings, body.note, key)


@router.post("/models/{name}/promote", responses={**TAKING, **CHANGING})
async def promote_model(name: ModelPath, body: Promotion, desk: ModelDeskDep) -> RouteJson:
    """One version gets all calls: at once if it is up, else as soon as it is."""
    return await desk.promote(name, body.version, body.keep_s)


@router.post("/models/{name}/split", responses={**TAKING, **CHANGING})
async def split_model(name: ModelPath, body: SplitBody, desk: ModelDeskDep) -> RouteJson:
    """Calls are shared out between versions, and these are compared."""
    weights = {int(version): share for version, share in body.weights.items()}
    return await desk.split(name, weights, body.sticky, body.keep_s)


@router.post("/models/{name}/rollback", responses=CHANGING)
async def roll_back_model(name: ModelPath, desk: ModelDeskDep) -> RouteJson:
    """Back to the shares of the route before."""
    return await desk.rollback(name)


@router.patch("/models/{name}/replicas", responses={**TAKING, **CHANGING})
async def scale_model(name: ModelPath, body: ReplicasPatch, desk: ModelDeskDep) -> VersionJson:
    """Changes `replicas` of a version that runs; no other setting of a version ever changes."""
    return await desk.scale(name, body.version, body.model_extra or {})


@router.get("/models/{name}/replicas")
async def list_replicas(name: str, platform: PlatformDep) -> list[dict[str, Any]]:
    if name == EMBEDDING_MODEL:
        return await platform.embedder.stats()
    return await platform.models.replicas_of(name).stats()


@router.delete("/models/{name}", status_code=204, response_class=Response, responses=CHANGING)
async def remove_model(name: ModelPath, desk: ModelDeskDep) -> Response:
    """All of its versions. One that the settings file names is there again at the next start."""
    await desk.remove(name)
    return Response(status_code=204)


@router.delete(
    "/models/{name}/versions/{version}", status_code=204, response_class=Response, responses=CHANGING
)
async def remove_model_version(name: ModelPath, version: VersionPath, desk: ModelDeskDep) -> Response:
    """A version without traffic."""
    await desk.ask("remove", name, version)
    return Response(status_code=204)


@router.get("/models/{name}/comparison")
async def compare_model_versions(
    name: ModelPath, desk: ModelDeskDep, revision: Revision = None
) -> ComparisonJson:
    """How the versions of a split do: their figures, the differences, and whether these may be chance."""
    return comparison_json(await desk.ask("comparison", name, revision))
