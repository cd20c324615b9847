"""Liveness, and whether every part is there."""

import asyncio
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from manta.errors import MantaError
from serve_app.gateway.bodies import StrictRoute
from serve_app.gateway.deps import PlatformDep

PROBE_S = 3.0

router = APIRouter(tags=["health"], route_class=StrictRoute)


@router.get("/healthz")
async def healthz() -> dict[str, Any]:
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(platform: PlatformDep) -> JSONResponse:
    probes = {
        "coordinator": _probe(platform.coordinator.call("health", patience_s=0)),
        "documents": _probe(platform.documents.ping()),
        "embedder": _probe(platform.embedder.embed(["ready?"])),
        **{f"model {name}": _probe(platform.models.get(name).ping()) for name in platform.models.names},
    }
    states = dict(zip(probes, await asyncio.gather(*probes.values()), strict=True))
    ready = all(state["state"] == "ready" for state in states.values())
    return JSONResponse({"ready": ready, "components": states}, 200 if ready else 503)


async def _probe(answer: Any) -> dict[str, str]:
    try:
        await asyncio.wait_for(answer, PROBE_S)
    except TimeoutError:
        return {"state": "not answering", "detail": f"no answer in {PROBE_S:g} s"}
    except MantaError as error:
        return {"state": "down", "detail": str(error)}
    return {"state": "ready", "detail": ""}
