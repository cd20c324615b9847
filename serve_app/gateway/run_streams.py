"""A run's events as a stream: `POST /runs/stream` and `GET /runs/ID/stream`."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from pydantic import WithJsonSchema

from coordinator.store.records import RunRecord
from manta.ids import RunId
from serve_app.gateway.bodies import StrictRoute
from serve_app.gateway.deps import DeskDep, IdempotencyKey, RunPath
from serve_app.gateway.errors import READING, TAKING, BadCursor, declared
from serve_app.gateway.run_bodies import STREAM_MODES, RunCreate
from serve_app.gateway.run_starts import cancel_soon, submit_for
from serve_app.gateway.sse import FRAMES, run_stream
from serve_app.gateway.streaming import EventStream, sse_answer

router = APIRouter(tags=["runs"], route_class=StrictRoute, responses=READING, default_response_class=Response)

LastEventId = Annotated[
    str | None,
    WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,18}$"}),
    Header(alias="Last-Event-ID", description="Of the last event seen; the stream goes on behind it."),
]
Modes = Annotated[
    str,
    Query(
        alias="stream_mode",
        pattern=r"^(values|messages|updates|custom)(,(values|messages|updates|custom))*$",
        description="What the stream carries, with commas between.",
    ),
]


@router.post("/runs/stream", responses={**TAKING, **declared(409), **sse_answer(*FRAMES)})
async def create_and_stream_run(body: RunCreate, desk: DeskDep, key: IdempotencyKey = None) -> Response:
    """The stream ends when the run is over, or waits for a person."""
    record = await submit_for(desk, body, key)
    leave = partial(cancel_soon, desk, RunId(record.id))
    events = run_stream(desk, record, 0, body.modes())
    return EventStream(events, on_leave=leave if body.on_disconnect == "cancel" else None)


@router.get("/runs/{run_id}/stream", responses=sse_answer(*FRAMES))
async def stream_run(
    run: RunPath, desk: DeskDep, last_event_id: LastEventId = None, modes: Modes = ",".join(STREAM_MODES)
) -> Response:
    """From the run's first event on, or behind `Last-Event-ID`."""
    record: RunRecord
    record, _ = await desk.call("get", run)
    after = _place(last_event_id, record.last_seq)
    return EventStream(run_stream(desk, record, after, frozenset(modes.split(","))))


def _place(last_event_id: str | None, last_seq: int) -> int:
    if last_event_id is None:
        return 0
    known = last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 19
    if not known or int(last_event_id) > last_seq:
        raise BadCursor(
            f"Last-Event-ID {last_event_id[:40]!r} is not the id of an event of this run",
            fix="send the id of the last event seen",
        )
    return int(last_event_id)
