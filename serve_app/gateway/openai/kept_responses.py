"""/v1/responses/ID: responses that were asked for with `background: true`."""

from typing import Annotated, Any

from fastapi import Query

from serve_app.gateway.deps import DeskDep
from serve_app.gateway.openai import background
from serve_app.gateway.openai.background_shapes import background_response
from serve_app.gateway.openai.routing import RUNNING, openai_router
from serve_app.gateway.streaming import EventStream

router = openai_router()

Number = Annotated[int, Query(ge=0, lt=1 << 31)]


@router.get("/responses/{response_id}")
async def get_response(
    response_id: str, desk: DeskDep, stream: bool = False, starting_after: Number | None = None
) -> Any:
    """A background response as it is now; any other is not kept. `stream` tells its events, from the first or
    behind number `starting_after` on."""
    record = await background.find(desk, response_id)
    if stream:
        return EventStream(background.frames(desk, record, -1 if starting_after is None else starting_after))
    return background_response(record)


@router.post("/responses/{response_id}/cancel", responses=RUNNING)
async def cancel_response(response_id: str, desk: DeskDep) -> dict[str, Any]:
    """Stops a background response; of one that is over nothing changes."""
    return background_response(await background.cancel(desk, await background.find(desk, response_id)))


@router.delete("/responses/{response_id}", responses=RUNNING)
async def delete_response(response_id: str, desk: DeskDep) -> dict[str, Any]:
    """A background response, with its run. One that is at work is stopped first."""
    await background.delete(desk, await background.find(desk, response_id))
    return {"id": response_id, "object": "response", "deleted": True}
