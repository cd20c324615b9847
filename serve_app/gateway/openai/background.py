"""Responses that outlive their request: each is a run, its id in the response's own."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any

from coordinator.store.records import TERMINAL_STATUSES, RunRecord
from manta.errors import Conflict, MantaError, NotFound
from manta.ids import RunId
from manta.messages import ChatRequest, to_json
from serve_app.gateway.deps import Desk
from serve_app.gateway.errors import BadField
from serve_app.gateway.hidden_graphs import RESPONSE_GRAPH
from serve_app.gateway.openai.background_shapes import ECHOED, response_events
from serve_app.gateway.openai.bodies import RunOptions
from serve_app.gateway.openai.run_ids import run_in
from serve_app.gateway.openai.run_sending import send, send_graph
from serve_app.gateway.openai.sources import is_graph
from serve_app.gateway.repeats import gone
from serve_app.gateway.run_bodies import RunCreate
from serve_app.gateway.run_starts import wait_for
from serve_app.gateway.sse import KEEP_ALIVE, KEEP_ALIVE_S, frame

PREFIX = "resp_"
STOPS_IN_S = 10.0


async def begin(
    desk: Desk,
    name: str,
    request: ChatRequest,
    options: RunOptions | None,
    echoed: Mapping[str, Any],
    key: str | None,
) -> RunRecord:
    """The run of a background response; it is durable when this returns.

    Args:
        echoed: what the response repeats of its request.
        key: the same key with the same request is the same response.

    Raises:
        NotFound: there is no such model or graph.
        BadField: the request is not for a graph, or its options not for a model.
    """
    metadata = {**(echoed["metadata"] or {}), ECHOED: {**echoed, "model": name}}
    if is_graph(name):
        return await send_graph(desk, name, request, options, metadata, key)
    if options is not None:
        raise BadField(f"{name} is a model, not a graph", fix="leave manta out", param="manta")
    await desk.platform.models.require(name)
    hints = {"user": request.hints.user}
    asked = {"model": name, "request": {**to_json(request), "hints": hints}}
    return await send(desk, RunCreate(agent_id=RESPONSE_GRAPH, input=asked, metadata=metadata), key)


async def find(desk: Desk, response_id: str) -> RunRecord:
    """The run behind a background response. Raises NotFound for any other id."""
    run = run_in(response_id, PREFIX)
    if run is not None:
        record = await run_record(desk, run)
        if record is not None and ECHOED in record.metadata:
            return record
    raise NotFound(
        f"Response with id '{response_id[:100]}' not found.",
        fix="only responses that were asked for with background: true are kept",
    )


async def run_record(desk: Desk, run: RunId) -> RunRecord | None:
    """A run of the caller's tenant as it is now; None if there is no such run."""
    try:
        record: RunRecord = await desk.call("wait", run, 0.0)
    except NotFound:
        return None
    return record


async def cancel(desk: Desk, record: RunRecord) -> RunRecord:
    """Stops it, and waits a while until it has; of one that is over nothing changes."""
    run = RunId(record.id)
    with suppress(Conflict):
        await desk.call("cancel", run)
    stopped: RunRecord = await desk.call("wait", run, STOPS_IN_S)
    return stopped


async def delete(desk: Desk, record: RunRecord) -> None:
    """The run with all that is its own. One that is at work is stopped first."""
    run = RunId(record.id)
    if (await cancel(desk, record)).status not in TERMINAL_STATUSES:
        await wait_for(desk, run)
    await gone(desk.call("delete", run))


async def frames(desk: Desk, record: RunRecord, after: int) -> AsyncGenerator[str, None]:
    """The response's events behind number `after`; what it is to say comes at its end, at once.

    They are the same each time, so that a stream can be taken up again. Closing it leaves the run alone.
    """
    told = after + 1
    try:
        while True:
            events = response_events(record)
            for event in events[told:]:
                yield frame(event["type"], event)
            told = max(told, len(events))
            if record.status in TERMINAL_STATUSES:
                return
            if record.status == "waiting":
                raise waits_for_a_person(record)
            record = await desk.call("wait", RunId(record.id), KEEP_ALIVE_S)
            yield KEEP_ALIVE
    except MantaError as error:
        # The status is long sent. The response has not failed: its stream can be taken up again, behind what was told.
        number = max(0, told - 1)
        failure = {"code": error.code, "message": error.message, "param": None, "sequence_number": number}
        yield frame("error", {"type": "error", **failure})


def waits_for_a_person(record: RunRecord) -> Conflict:
    return Conflict(
        f"run {record.id} waits for a person",
        fix=f"GET /runs/{record.id}, and answer it: POST /runs/{record.id}/decisions",
        code="run_waiting",
    )
