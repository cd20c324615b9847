"""What happens on a thread, over all its runs, as the Agent Protocol streams it: SSE, and the reading behind it."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from pydantic import Field, WithJsonSchema

from coordinator.news import Watch
from coordinator.store.library_records import ThreadState
from coordinator.store.records import TERMINAL_STATUSES, RunRecord
from manta.clock import Clock, SystemClock
from manta.errors import MantaError
from manta.events import Event
from manta.ids import RunId, ThreadId
from serve_app.gateway.bodies import StrictRoute
from serve_app.gateway.body_types import WHOLE, Body
from serve_app.gateway.deps import Desk, DeskDep, ThreadPath
from serve_app.gateway.errors import TAKING, BadCursor
from serve_app.gateway.sse import KEEP_ALIVE, KEEP_ALIVE_S, frame, step_output
from serve_app.gateway.streaming import EventStream, sse_answer
from serve_app.gateway.thread_events import METHODS, Facts, Teller, Told, Wanted, place, run_and_seq

POLL_S = 0.5
"""How often a thread without a run at work is looked at."""
LATEST_RUNS = 50
"""Runs of a thread that are followed; an older one is not taken up again by a stream."""

router = APIRouter(
    tags=["threads"], route_class=StrictRoute, responses=TAKING, default_response_class=Response
)

Channel = Annotated[
    str,
    Field(pattern=r"^(values|updates|messages|tools|lifecycle|input|checkpoints|tasks|custom|custom:.+)$"),
]
Place = Annotated[int, Field(ge=0, lt=1 << 53), WHOLE]


class EventStreamRequest(Body):
    """The protocol's body. Without `since` the stream begins with the runs that are not over, else behind it."""

    channels: Annotated[list[Channel], Field(min_length=1, max_length=100)]
    namespaces: Annotated[list[list[str]], Field(max_length=1000)] | None = None
    depth: Annotated[int, Field(ge=0), WHOLE] | None = None
    since: Place | None = None

    def wanted(self) -> Wanted:
        namespaces = tuple(tuple(namespace) for namespace in self.namespaces or ())
        return Wanted(frozenset(self.channels), namespaces or None, self.depth)


LastEventId = Annotated[
    str | None,
    WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,16}$"}),
    Header(alias="Last-Event-ID", description="As `since`, where the body has none."),
]


@router.post("/threads/{thread_id}/stream", responses=sse_answer(*METHODS, "error"))
async def open_thread_sse_stream(
    thread: ThreadPath, body: EventStreamRequest, desk: DeskDep, last_event_id: LastEventId = None
) -> Response:
    """Stays open over all runs, until the client closes it."""
    await desk.library("threads", "get", thread)
    resumed = None if last_event_id is None else _place(last_event_id)
    since = resumed if body.since is None else body.since
    reader = await open_reader(desk, thread, body.wanted(), since)
    return EventStream(_frames(reader))


def _place(last_event_id: str) -> int:
    if not (last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 17):
        raise BadCursor("Last-Event-ID is not the id of an event", fix="send the id of the last event seen")
    return int(last_event_id)


async def _frames(reader: "ThreadReader") -> AsyncGenerator[str, None]:
    try:
        async for told in reader.read():
            if told is None:
                yield KEEP_ALIVE
            else:
                yield frame(str(told["method"]), told, told.get("eventId"))
    except MantaError as error:
        yield frame("error", failure(error))


def failure(error: MantaError) -> dict[str, Any]:
    """The protocol's word for a stream that breaks off."""
    return {"type": "error", "id": None, "error": "unknown_error", "message": str(error)}


@dataclass(slots=True)
class ThreadReader:
    """Reads the runs of one thread one after the other, each from where it was left.

    `seen` holds for each run the last event that was told; a run that is not there yet is read from its start.
    """

    desk: Desk
    thread: ThreadId
    wanted: Wanted
    seen: dict[RunId, int]
    since: int = 0
    clock: Clock = field(default_factory=SystemClock)
    _tellers: dict[RunId, Teller] = field(default_factory=dict)

    async def read(self) -> AsyncGenerator[dict[str, Any] | None, None]:
        """Events as they go over the wire; None when none came for a while. Ends with an error only."""
        if "values" in self.wanted.channels:
            for told in await self._baseline():
                yield told
        idle = 0.0
        while True:
            record = self._next(await latest_runs(self.desk, self.thread))
            if record is None:
                await self.clock.sleep(POLL_S)
                idle += POLL_S
                if idle >= KEEP_ALIVE_S:
                    idle = 0.0
                    yield None
                continue
            async for event in self._follow(record):
                idle = 0.0
                yield event

    def _next(self, records: list[RunRecord]) -> RunRecord | None:
        """The run to read now: one with something untold, else the one at work, else a queued one."""
        for record in records:
            if record.last_seq > self.seen.get(record.id, 0):
                return record
        for status in ("running", "pending"):
            for record in records:
                if record.status == status:
                    return record
        return None

    async def _follow(self, record: RunRecord) -> AsyncGenerator[dict[str, Any] | None, None]:
        """The run until it rests, or is silent for so long that another may matter more."""
        run, cursor = RunId(record.id), -1
        teller = self._tellers.setdefault(record.id, Teller(record))
        self.seen.setdefault(record.id, 0)
        while True:
            watch: Watch = await self.desk.call("watch", run, self.seen[record.id], cursor, KEEP_ALIVE_S)
            cursor = watch.cursor
            for event in watch.events:
                self.seen[record.id] = max(self.seen[record.id], event.seq)
                for told in teller.tell(event, await self._facts(event)):
                    if self.wanted.takes(told) and (told.seq is None or told.seq > self.since):
                        yield told.plain()
            if watch.over:
                # Nothing more is there, whatever the row says.
                self.seen[record.id] = max(self.seen[record.id], record.last_seq)
                return
            if not watch.events:
                yield None
                return

    async def _facts(self, event: Event) -> Facts:
        wanted = self.wanted.channels
        if event.type == "step_done" and "updates" in wanted:
            return Facts(output=await step_output(self.desk, event))
        if event.type == "run_done" and wanted & {"values", "checkpoints"}:
            state = await self._state_of(event.run)
            if state is not None:
                return Facts(values=whole_state(state), checkpoint=checkpoint_of(state))
        return Facts()

    async def _state_of(self, run: RunId) -> ThreadState | None:
        """The state that a run left: the latest, unless others came after it."""
        for limit in (1, LATEST_RUNS):
            states: list[ThreadState] = await self.desk.library("threads", "history", self.thread, limit)
            for state in states:
                if state.run == run:
                    return state
        return None

    async def _baseline(self) -> list[dict[str, Any]]:
        """The thread as it is, for a client to apply changes to."""
        state: ThreadState | None = await self.desk.library("threads", "state", self.thread)
        if state is None:
            return []
        told = Told("values", whole_state(state), state.created_at)
        return [told.plain()] if self.wanted.takes(told) else []


async def open_reader(desk: Desk, thread: ThreadId, wanted: Wanted, since: int | None) -> ThreadReader:
    """Raises BadCursor when `since` lies behind everything there is."""
    records = await latest_runs(desk, thread)
    if since is None:
        seen = {r.id: r.last_seq for r in records if r.status in TERMINAL_STATUSES}
        return ThreadReader(desk, thread, wanted, seen)
    if since > max((place(r.number, r.last_seq) for r in records), default=0):
        raise BadCursor("since is not a place in this thread's stream", fix="send the seq of an event seen")
    number, seq = run_and_seq(since)
    # The event that the place lies in is read again: some of its parts may be behind the place.
    seen = {r.id: r.last_seq if r.number < number else seq - 1 for r in records if r.number <= number}
    return ThreadReader(desk, thread, wanted, {run: max(0, last) for run, last in seen.items()}, since)


async def latest_runs(desk: Desk, thread: ThreadId) -> list[RunRecord]:
    """Of a thread, the oldest of them first."""
    filters = {"thread": thread, "limit": LATEST_RUNS}
    records: list[RunRecord] = await desk.call("search", filters)
    return records[::-1]


def checkpoint_of(state: ThreadState) -> dict[str, Any]:
    about = {"id": state.checkpoint, "source": "update" if state.run is None else "loop"}
    return {**about, "parent_id": state.base} if state.base is not None else about


def whole_state(state: ThreadState) -> dict[str, Any]:
    return {**state.values, "messages": list(state.messages)} if state.messages else dict(state.values)
