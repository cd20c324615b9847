"""Liveness, and whether every part is there."""

import asyncio
from typing import Any

from fastapi import APIRouter, Response
from typing_extensions import TypedDict

from manta.errors import MantaError
from serve_app.gateway.bodies import StrictRoute
from serve_app.gateway.deps import Platform, PlatformDep
from serve_app.gateway.errors import READING

PROBE_S = 3.0

router = APIRouter(tags=["health"], route_class=StrictRoute, responses=READING)


class Alive(TypedDict):
    status: str


class ComponentJson(TypedDict):
    """`state`: `ready`, `down` or `not answering`."""

    state: str
    detail: str


class Readiness(TypedDict):
    ready: bool
    components: dict[str, ComponentJson]


@router.get("/health", description="As `/healthz`, where clients of inference servers look for it.")
@router.get("/healthz")
async def healthz() -> Alive:
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Some part is not ready"}})
async def readyz(platform: PlatformDep, response: Response) -> Readiness:
    models = await _names(platform)
    probes = {
        "coordinator": _probe(platform.coordinator.call("health", patience_s=0)),
        "documents": _probe(platform.documents.ping()),
        "embedder": _probe(platform.embedder.embed(["ready?"])),
        **{f"model {name}": _probe(platform.models.replicas_of(name).ping()) for name in models},
    }
    states = dict(zip(probes, await asyncio.gather(*probes.values()), strict=True))
    ready = all(state["state"] == "ready" for state in states.values())
    response.status_code = 200 if ready else 503
    return {"ready": ready, "components": states}


async def _names(platform: Platform) -> tuple[str, ...]:
    """None while no coordinator tells them; its own probe says so."""
    try:
        async with asyncio.timeout(PROBE_S):
            return await platform.models.names()
    except (MantaError, TimeoutError):
        return ()


async def _probe(answer: Any) -> ComponentJson:
    try:
        async with asyncio.timeout(PROBE_S):
            await answer
    except TimeoutError:
        return {"state": "not answering", "detail": f"no answer in {PROBE_S:g} s"}
    except MantaError as error:
        return {"state": "down", "detail": str(error)}
    return {"state": "ready", "detail": ""}
