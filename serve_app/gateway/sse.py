"""A run's events as a server-sent stream, in the event names LangGraph's clients know.

`custom` carries Manta's own event and its durable id; `messages` token deltas; `updates` a step's output;
`values` the run's output; then `end`. `Last-Event-ID` resumes behind a durable id.

A run that fails gives an `error` frame, then the `custom` frame of its `run_failed` (of a cancelled one only
`run_cancelled` comes), then `end`. A run that comes to wait for a person gives `run_waiting`, then `end`; once it
goes on, the stream can be taken up behind that event. An `error` frame that nothing follows is the platform's own.
"""

import json
from collections.abc import AsyncGenerator
from typing import Any

from coordinator.news import Watch
from coordinator.store.records import RunRecord, StepRecord
from manta.errors import MantaError
from manta.events import Event
from manta.ids import RunId
from manta.messages import to_json
from serve_app.gateway.deps import Desk
from serve_app.gateway.shapes import values_of

KEEP_ALIVE_S = 15.0
KEEP_ALIVE = ": keep-alive\n\n"
"""A comment, so that proxies see a stream at work."""
FRAMES = ("metadata", "custom", "messages", "updates", "values", "error", "end")
"""What the events of a run's stream are called."""


def frame(event: str, data: Any, event_id: int | str | None = None) -> str:
    """One server-sent event. JSON keeps the data on one line."""
    head = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}event: {event}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


async def run_stream(
    desk: Desk, record: RunRecord, after: int, modes: frozenset[str]
) -> AsyncGenerator[str, None]:
    """Frames until the run rests. An error of the platform is an `error` frame, and no `end` follows."""
    run = RunId(record.id)
    yield frame("metadata", {"run_id": record.id, "agent_id": record.graph_name})
    cursor = -1
    try:
        while True:
            watch: Watch = await desk.call("watch", run, after, cursor, KEEP_ALIVE_S)
            cursor = watch.cursor
            for event in watch.events:
                after = max(after, event.seq)
                for text in await _frames(desk, event, modes):
                    yield text
            if watch.over and not _goes_on(watch):
                yield frame("end", None)
                return
            if not watch.events:
                yield KEEP_ALIVE
    except MantaError as error:
        yield frame("error", error.to_json())


def _goes_on(watch: Watch) -> bool:
    """A run that was told to wait may have its answer by now: it is looked at once more."""
    return bool(watch.events) and watch.events[-1].type == "run_waiting"


async def _frames(desk: Desk, event: Event, modes: frozenset[str]) -> list[str]:
    if event.type == "token":
        if "messages" not in modes:
            return []
        return [
            frame(
                "messages", [{"type": "AIMessageChunk", "content": event.data["text"]}, {"step": event.step}]
            )
        ]
    frames = []
    if event.type == "step_done" and "updates" in modes:
        frames.append(frame("updates", {event.step: await step_output(desk, event)}))
    if event.type == "run_done" and "values" in modes:
        record, _ = await desk.call("get", event.run)
        frames.append(frame("values", values_of(record)))
    if event.type == "run_failed":
        frames.append(frame("error", event.data["error"]))
    if "custom" in modes:
        # Last, so that a stream cut before it is resumed with the frames above once more, not without them.
        frames.append(frame("custom", to_json(event), event.seq or None))
    return frames


async def step_output(desk: Desk, event: Event) -> Any:
    steps: list[StepRecord]
    _, steps = await desk.call("get", event.run)
    return next((step.output for step in steps if step.key == event.step), None)
