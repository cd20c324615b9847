"""Runs, in the shapes of the Agent Protocol 0.1.6; what Manta adds is in extension fields."""

import asyncio
import re
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from coordinator.service import Submission
from coordinator.store.records import TERMINAL_STATUSES, RunRecord
from manta.errors import InvalidInput, MantaError
from manta.ids import RunId, new_run_id
from serve_app.gateway.bodies import StrictRoute
from serve_app.gateway.deps import Caller, CallerDep, Platform, PlatformDep
from serve_app.gateway.errors import logger
from serve_app.gateway.shapes import run_json, step_json, values_of
from serve_app.gateway.sse import run_stream
from serve_app.gateway.streaming import EventStream, in_background

DEFAULT_GRAPH = "research_report"
WAIT_SLICE_S = 20.0
"""One long poll of the coordinator; a longer wait is several of them."""

_EVENT_ID = re.compile("[0-9]{1,18}")

router = APIRouter(tags=["runs"], route_class=StrictRoute)


class RunCreate(BaseModel):
    """The protocol's body. `on_disconnect` is `continue` unless asked otherwise: a run outlives its client."""

    model_config = ConfigDict(extra="ignore")
    agent_id: str = DEFAULT_GRAPH
    input: Any = None
    messages: list[dict[str, Any]] | None = None
    metadata: dict[str, Any] = {}
    config: dict[str, Any] = {}
    on_disconnect: Literal["cancel", "continue"] = "continue"
    stream_mode: str | list[str] | None = None
    timeout_s: float | None = Field(None, gt=0, le=1e9)
    thread_id: str | None = Field(None, description="Not supported: refused unless null.")
    webhook: str | None = Field(None, description="Not supported: refused unless null.")


class RunSearch(BaseModel):
    model_config = ConfigDict(extra="ignore")
    metadata: dict[str, Any] | None = None
    status: Literal["pending", "error", "success", "timeout", "interrupted"] | None = None
    agent_id: str | None = None
    limit: int = Field(10, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=1_000_000)
    thread_id: str | None = Field(None, description="Not supported: refused unless null.")


IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", max_length=255)]
LastEventId = Annotated[str | None, Header(alias="Last-Event-ID")]
StreamMode = Annotated[str, Query()]


@router.post("/runs")
async def create_run(
    body: RunCreate, platform: PlatformDep, caller: CallerDep, key: IdempotencyKey = None
) -> dict[str, Any]:
    return run_json(await submit(platform, caller, body, key))


@router.post("/runs/wait")
async def create_and_wait(
    body: RunCreate, request: Request, platform: PlatformDep, caller: CallerDep, key: IdempotencyKey = None
) -> dict[str, Any]:
    record = await submit(platform, caller, body, key)
    try:
        return await _wait(platform, caller, RunId(record.id))
    except asyncio.CancelledError:
        if body.on_disconnect == "cancel":
            _cancel_soon(platform, caller, RunId(record.id))
        raise


@router.post("/runs/stream")
async def create_and_stream(
    body: RunCreate, platform: PlatformDep, caller: CallerDep, key: IdempotencyKey = None
) -> EventStream:
    record = await submit(platform, caller, body, key)
    modes = (
        body.stream_mode
        if isinstance(body.stream_mode, list)
        else [body.stream_mode or "custom,messages,values"]
    )
    events = run_stream(platform, caller, record, 0, ",".join(modes))
    leave = partial(_cancel_soon, platform, caller, RunId(record.id))
    return EventStream(events, on_leave=leave if body.on_disconnect == "cancel" else None)


@router.post("/runs/search")
async def search_runs(body: RunSearch, platform: PlatformDep, caller: CallerDep) -> list[dict[str, Any]]:
    _refuse_unsupported(thread_id=body.thread_id)
    # The protocol's `pending` is the journal's `running` too, as `run_json` tells it.
    status = ("pending", "running") if body.status == "pending" else body.status
    shown = body.model_dump(include={"metadata", "limit", "offset"})
    filters = {"graph": body.agent_id, "status": status, **shown}
    records: list[RunRecord] = await platform.coordinator.call("search", caller.tenant, filters)
    return [run_json(record) for record in records]


@router.get("/runs/{run_id}")
async def get_run(run_id: str, platform: PlatformDep, caller: CallerDep) -> dict[str, Any]:
    record, steps = await platform.coordinator.call("get", caller.tenant, RunId(run_id))
    return {**run_json(record), "steps": [step_json(step) for step in steps]}


@router.get("/runs/{run_id}/wait")
async def wait_run(run_id: str, platform: PlatformDep, caller: CallerDep) -> dict[str, Any]:
    return await _wait(platform, caller, RunId(run_id))


@router.get("/runs/{run_id}/stream")
async def stream_run(
    run_id: str,
    platform: PlatformDep,
    caller: CallerDep,
    last_event_id: LastEventId = None,
    stream_mode: StreamMode = "custom,messages,values",
) -> EventStream:
    after = _sequence(last_event_id)
    record, _ = await platform.coordinator.call("get", caller.tenant, RunId(run_id))
    return EventStream(run_stream(platform, caller, record, after, stream_mode))


@router.post("/runs/{run_id}/cancel", status_code=204)
async def cancel_run(
    run_id: str,
    platform: PlatformDep,
    caller: CallerDep,
    wait: bool = False,
    action: Literal["interrupt", "rollback"] = "interrupt",
) -> Response:
    if action == "rollback":
        raise InvalidInput("rollback is not supported", fix="use action=interrupt; the run's record is kept")
    await platform.coordinator.call("cancel", caller.tenant, RunId(run_id))
    if wait:
        await _wait(platform, caller, RunId(run_id))
    return Response(status_code=204)


async def submit(platform: Platform, caller: Caller, body: RunCreate, key: str | None) -> RunRecord:
    """Hand a run to the coordinator; it is durable when this returns.

    Without a key of the caller's the call gets none: a retry inside could then start a run twice, so a
    private key is made for the time of the call.
    """
    _refuse_unsupported(thread_id=body.thread_id, webhook=body.webhook)
    value = {"messages": body.messages} if body.input is None and body.messages else body.input
    submission = Submission(
        graph=body.agent_id,
        input={} if value is None else value,
        tenant=caller.tenant,
        principal=caller.principal,
        metadata=body.metadata,
        idempotency_key=key or f"once-{new_run_id()}",
        timeout_s=body.timeout_s,
    )
    record: RunRecord = await platform.coordinator.call("submit", submission)
    return record


async def _wait(platform: Platform, caller: Caller, run: RunId) -> dict[str, Any]:
    while True:
        record: RunRecord = await platform.coordinator.call("wait", caller.tenant, run, WAIT_SLICE_S)
        if record.status in TERMINAL_STATUSES:
            return {"run": run_json(record), "values": values_of(record), "messages": []}


def _cancel_soon(platform: Platform, caller: Caller, run: RunId) -> None:
    in_background(_cancel(platform, caller, run))


async def _cancel(platform: Platform, caller: Caller, run: RunId) -> None:
    try:
        await platform.coordinator.call("cancel", caller.tenant, run)
    except MantaError as error:
        # Nobody is left to tell: the run is over already, or goes on until its deadline.
        logger.warning("run %s was not cancelled after its client left: %s", run, error)


def _refuse_unsupported(**fields: str | None) -> None:
    for name, value in fields.items():
        if value is not None:
            # Taking it silently would let the caller wait for what never comes.
            raise InvalidInput(f"{name} is not supported", fix="leave it out", code="unsupported")


def _sequence(last_event_id: str | None) -> int:
    if not last_event_id:
        return 0
    if not _EVENT_ID.fullmatch(last_event_id):
        raise InvalidInput(
            f"Last-Event-ID {last_event_id[:40]!r} is not the id of an event",
            fix="send the id of the last event seen",
        )
    return int(last_event_id)
