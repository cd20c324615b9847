"""Runs, in the shapes of the Agent Protocol 0.1.6; what Manta adds is in extension fields."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response

from coordinator.store.records import RunRecord
from manta.ids import RunId
from serve_app.gateway.bodies import StrictRoute
from serve_app.gateway.body_types import Status
from serve_app.gateway.deps import DeskDep, IdempotencyKey, RunPath
from serve_app.gateway.errors import READING, TAKING, declared
from serve_app.gateway.links import TO_RUN, TO_WAITED_RUN
from serve_app.gateway.repeats import gone
from serve_app.gateway.run_bodies import RunCreate, RunSearch
from serve_app.gateway.run_starts import submit, submit_for, wait_for, wait_or_cancel
from serve_app.gateway.shapes import RunJson, RunWaitJson, run_json, whole_run_json

router = APIRouter(tags=["runs"], route_class=StrictRoute, responses=READING)

_STATUSES: dict[Status, tuple[str, ...]] = {
    "pending": ("pending", "running"),
    "interrupted": ("interrupted", "waiting"),
}
"""What the journal calls the protocol's statuses."""
_STARTING = {**TAKING, **declared(409)}


@router.post("/runs", responses={**_STARTING, **TO_RUN})
async def create_run(body: RunCreate, desk: DeskDep, key: IdempotencyKey = None) -> RunJson:
    return run_json(await submit(desk, body, key))


@router.post("/runs/wait", responses={**_STARTING, **TO_WAITED_RUN})
async def create_and_wait_run(body: RunCreate, desk: DeskDep, key: IdempotencyKey = None) -> RunWaitJson:
    """The answer comes once the run is over, or waits for a person."""
    record = await submit_for(desk, body, key)
    return await wait_or_cancel(desk, RunId(record.id), body.on_disconnect)


@router.post("/runs/search", responses=TAKING)
async def search_runs(body: RunSearch, desk: DeskDep) -> list[RunJson]:
    """Newest first."""
    wanted: dict[str, Any] = {
        "graph": body.agent_id,
        "metadata": body.metadata,
        "thread": body.thread_id,
        "reason": body.reason,
        "status": _STATUSES.get(body.status, (body.status,)) if body.status else None,
    }
    if body.reason == "waiting":
        # Told as a reason, kept as a status.
        wanted |= {"reason": None, "status": ("waiting",)}
        if body.status not in (None, "interrupted"):
            return []
    filters = {name: value for name, value in wanted.items() if value is not None}
    filters |= {"limit": body.limit, "offset": body.offset}
    records: list[RunRecord] = await desk.call("search", filters)
    return [run_json(record) for record in records]


@router.get("/runs/{run_id}")
async def get_run(run: RunPath, desk: DeskDep) -> RunJson:
    """With its steps, and what waits for a person."""
    record, steps = await desk.call("get", run)
    return whole_run_json(record, steps)


@router.delete("/runs/{run_id}", status_code=204, response_class=Response, responses=declared(409))
async def delete_run(run: RunPath, desk: DeskDep) -> Response:
    """The run and all that belongs to it. One that is not over has to be cancelled first: 409 `run_active`."""
    await desk.call("wait", run, 0.0)
    await gone(desk.call("delete", run))
    return Response(status_code=204)


@router.get("/runs/{run_id}/wait")
async def wait_run(run: RunPath, desk: DeskDep) -> RunWaitJson:
    """The answer comes once the run is over, or waits for a person."""
    return await wait_for(desk, run)


@router.post("/runs/{run_id}/cancel", status_code=204, response_class=Response, responses=declared(409))
async def cancel_run(
    run: RunPath,
    desk: DeskDep,
    wait: Annotated[bool, Query(description="Answer once it has stopped.")] = False,
    action: Annotated[
        Literal["interrupt", "rollback"],
        Query(description="`rollback` waits for it and deletes the run and all that belongs to it."),
    ] = "interrupt",
) -> Response:
    await desk.call("cancel", run)
    if wait or action == "rollback":
        await wait_for(desk, run)
    if action == "rollback":
        await gone(desk.call("delete", run))
    return Response(status_code=204)
