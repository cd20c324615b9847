"""Schedules: runs that start by the clock. Manta's own routes."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict

from coordinator.store.library_records import ScheduleRecord
from coordinator.submission import check_input
from serve_app.gateway.agents import graph_named
from serve_app.gateway.bodies import StrictRoute
from serve_app.gateway.body_types import Anything, Metadata, Name, OwnBody
from serve_app.gateway.deps import DeskDep, PageLimit, PageOffset, SchedulePath
from serve_app.gateway.errors import READING, TAKING
from serve_app.gateway.links import TO_SCHEDULE
from serve_app.gateway.repeats import RequestKey, gone, made_id
from serve_app.gateway.shapes import Stamp, Uuid, stamp

router = APIRouter(tags=["schedules"], route_class=StrictRoute, responses=READING)

Cron = Annotated[str, Field(min_length=1, max_length=255)]
Zone = Annotated[str, Field(min_length=1, max_length=64)]


Graphs = Annotated[str | None, WithJsonSchema({"type": "string"}), Query(description="Of this graph.")]


class ScheduleCreate(OwnBody):
    graph: Name
    input: Anything = {}
    cron: Cron
    """Five fields: minute, hour, day of month, month, day of week."""
    timezone: Zone = "UTC"
    """A name of the IANA database, `Europe/Berlin`."""
    metadata: Metadata = {}
    """Of its runs."""
    enabled: bool = True


class SchedulePatch(OwnBody):
    """What is left out stays."""

    enabled: bool | None = None
    cron: Cron | None = None
    timezone: Zone | None = None
    input: Anything = None


class ScheduleJson(TypedDict):
    """`next_at` and `last_at` are seconds since the epoch. `last_error`: why the latest time came to no run."""

    schedule_id: Uuid
    graph: str
    input: Any
    cron: str
    timezone: str
    metadata: dict[str, Any]
    enabled: bool
    next_at: float | None
    last_at: float | None
    last_run: str | None
    last_error: dict[str, Any] | None
    created_at: Stamp
    updated_at: Stamp


@router.post("/schedules", responses={**TAKING, **TO_SCHEDULE})
async def create_schedule(body: ScheduleCreate, desk: DeskDep, key: RequestKey) -> ScheduleJson:
    check_input(await graph_named(desk.platform, body.graph), body.input)
    made = await desk.library(
        "schedules",
        "create",
        desk.caller.principal,
        body.graph,
        body.input,
        body.cron,
        body.timezone,
        body.metadata,
        body.enabled,
        made_id(desk, "schedule", key),
    )
    return _schedule(made)


@router.get("/schedules")
async def list_schedules(
    desk: DeskDep, graph: Graphs = None, limit: PageLimit = 100, offset: PageOffset = 0
) -> list[ScheduleJson]:
    """Newest first."""
    found = await desk.library("schedules", "list", graph, limit, offset)
    return [_schedule(schedule) for schedule in found]


@router.get("/schedules/{schedule_id}")
async def get_schedule(schedule: SchedulePath, desk: DeskDep) -> ScheduleJson:
    return _schedule(await desk.library("schedules", "get", schedule))


@router.patch("/schedules/{schedule_id}", responses=TAKING)
async def patch_schedule(schedule: SchedulePath, body: SchedulePatch, desk: DeskDep) -> ScheduleJson:
    """The next time is counted from now: what it missed while disabled is gone."""
    old: ScheduleRecord = await desk.library("schedules", "get", schedule)
    given = body.input if "input" in body.model_fields_set else old.input
    changed = await desk.library(
        "schedules", "patch", schedule, body.enabled, body.cron, given, body.timezone
    )
    return _schedule(changed)


@router.delete("/schedules/{schedule_id}", status_code=204, response_class=Response)
async def delete_schedule(schedule: SchedulePath, desk: DeskDep) -> Response:
    """Runs that it started stay."""
    await desk.library("schedules", "get", schedule)
    await gone(desk.library("schedules", "delete", schedule))
    return Response(status_code=204)


def _schedule(record: ScheduleRecord) -> ScheduleJson:
    return {
        "schedule_id": record.id,
        "graph": record.graph,
        "input": record.input,
        "cron": record.cron,
        "timezone": record.timezone,
        "metadata": record.metadata,
        "enabled": record.enabled,
        "next_at": record.next_at,
        "last_at": record.last_at,
        "last_run": record.last_run,
        "last_error": record.last_error,
        "created_at": stamp(record.created_at),
        "updated_at": stamp(record.updated_at),
    }
