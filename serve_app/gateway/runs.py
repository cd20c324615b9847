"""Runs, in the shapes of the Agent Protocol 0.1.6; what Manta adds is in extension fields."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from coordinator.service import TERMINAL_STATUS, Submission
from coordinator.store.records import RunRecord, StepRecord
from manta.errors import Conflict, InvalidInput
from manta.ids import RunId, new_run_id
from manta.messages import to_json
from serve_app.gateway.deps import Caller, CallerDep, Platform, PlatformDep
from serve_app.gateway.errors import logger
from serve_app.gateway.sse import run_stream

DEFAULT_GRAPH = "research_report"
WAIT_SLICE_S = 20.0
"""One long poll of the coordinator; a longer wait is several of them."""

router = APIRouter(tags=["runs"])


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
    timeout_s: float | None = Field(None, gt=0)
    thread_id: str | None = None


class RunSearch(BaseModel):
    model_config = ConfigDict(extra="ignore")
    metadata: dict[str, Any] | None = None
    status: Literal["pending", "error", "success", "timeout", "interrupted"] | None = None
    agent_id: str | None = None
    limit: int = Field(10, ge=1, le=1000)
    offset: int = Field(0, ge=0)


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
            await _cancel_quietly(platform, caller, RunId(record.id))
        raise


@router.post("/runs/stream")
async def create_and_stream(
    body: RunCreate, platform: PlatformDep, caller: CallerDep, key: IdempotencyKey = None
) -> StreamingResponse:
    record = await submit(platform, caller, body, key)
    modes = (
        body.stream_mode
        if isinstance(body.stream_mode, list)
        else [body.stream_mode or "custom,messages,values"]
    )
    events = run_stream(platform, caller, record, 0, ",".join(modes))
    if body.on_disconnect == "cancel":
        events = _cancelling(events, platform, caller, RunId(record.id))
    return _sse(events)


@router.post("/runs/search")
async def search_runs(body: RunSearch, platform: PlatformDep, caller: CallerDep) -> list[dict[str, Any]]:
    filters = {"graph": body.agent_id, **body.model_dump(include={"metadata", "status", "limit", "offset"})}
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
) -> StreamingResponse:
    record, _ = await platform.coordinator.call("get", caller.tenant, RunId(run_id))
    return _sse(run_stream(platform, caller, record, _sequence(last_event_id), stream_mode))


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


def run_json(record: RunRecord) -> dict[str, Any]:
    """A run as the protocol has it (`running` is the protocol's `pending`), with extensions."""
    return {
        "run_id": record.id,
        "agent_id": record.graph_name,
        "status": "pending" if record.status == "running" else record.status,
        "metadata": record.metadata,
        "input": record.input,
        "created_at": _iso(record.created_at),
        "updated_at": _iso(record.updated_at),
        "graph_version": record.graph_version,
        "reason": record.reason,
        "error": record.error,
        "usage": to_json(record.usage),
    }


def step_json(step: StepRecord) -> dict[str, Any]:
    hidden = {"input", "output"}
    return {key: value for key, value in to_json(step).items() if key not in hidden}


def values_of(record: RunRecord) -> dict[str, Any]:
    if record.status != "success":
        return {}
    return record.output if isinstance(record.output, dict) else {"output": record.output}


async def _wait(platform: Platform, caller: Caller, run: RunId) -> dict[str, Any]:
    while True:
        record: RunRecord = await platform.coordinator.call("wait", caller.tenant, run, WAIT_SLICE_S)
        if record.status in TERMINAL_STATUS:
            return {"run": run_json(record), "values": values_of(record), "messages": []}


async def _cancelling(
    events: AsyncGenerator[str, None], platform: Platform, caller: Caller, run: RunId
) -> AsyncGenerator[str, None]:
    ended = False
    try:
        async for event in events:
            yield event
        ended = True
    finally:
        if not ended:
            await _cancel_quietly(platform, caller, run)


async def _cancel_quietly(platform: Platform, caller: Caller, run: RunId) -> None:
    try:
        await asyncio.shield(platform.coordinator.call("cancel", caller.tenant, run))
    except Conflict:
        logger.info("run %s was over before its client left", run)


def _sse(events: AsyncGenerator[str, None]) -> StreamingResponse:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


def _sequence(last_event_id: str | None) -> int:
    if not last_event_id:
        return 0
    if not last_event_id.isdigit():
        raise InvalidInput(
            f"Last-Event-ID {last_event_id!r} is not a number", fix="send the id of the last event seen"
        )
    return int(last_event_id)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
