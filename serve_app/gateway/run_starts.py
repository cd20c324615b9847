"""Starting a run and waiting for it: what the routes, the commands of threads and OpenAI's API share."""

import asyncio
import dataclasses
import uuid
from collections.abc import Sequence

from coordinator.store.records import TERMINAL_STATUSES, RunRecord, StepRecord
from coordinator.submission import Submission
from manta.detached import detached
from manta.errors import InvalidInput, MantaError, NotFound
from manta.ids import RunId, ThreadId
from serve_app.gateway.deps import Desk
from serve_app.gateway.errors import logger
from serve_app.gateway.run_bodies import RunCreate
from serve_app.gateway.shapes import RunWaitJson, wait_json
from serve_app.gateway.streaming import in_background

WAIT_SLICE_S = 20.0
"""One long poll of the coordinator; a longer wait is several of them."""
RESTING = TERMINAL_STATUSES | {"waiting"}
_THREADS_BY_KEY = uuid.UUID("5bd0b6f4-7a0e-5c0c-9d0a-3c3f4f7c2e11")


async def submit(desk: Desk, body: RunCreate, key: str | None) -> RunRecord:
    """Hand a run to the coordinator; it is durable when this returns."""
    async with desk.starting_a_run() as cap:
        thread = await _thread(desk, body, key)
        submission = dataclasses.replace(body.submission(desk.caller, key, thread), cap=cap)
        return await _sent(desk, submission)


async def submit_for(desk: Desk, body: RunCreate, key: str | None) -> RunRecord:
    """As `submit`, for a client that waits; who leaves meanwhile may have asked that the run goes with it."""
    if body.on_disconnect != "cancel":
        return await submit(desk, body, key)
    sending = detached(submit(desk, body, key))
    try:
        return await asyncio.shield(sending)
    except asyncio.CancelledError:
        in_background(_cancel_sent(desk, sending))
        raise


async def _sent(desk: Desk, submission: Submission) -> RunRecord:
    try:
        record: RunRecord = await desk.platform.coordinator.call("submit", submission)
    except NotFound as error:
        if error.code != NotFound.code:
            raise
        raise NotFound(
            "there is no such thread", fix="POST /threads, or if_not_exists: create", code="unknown_thread"
        ) from None
    return record


async def _thread(desk: Desk, body: RunCreate, key: str | None) -> str | None:
    if body.thread_id is None:
        if body.on_completion != "keep":
            return None
        # By the key, so that a repeated request finds the thread of the first.
        name = f"{desk.caller.tenant}/{key}" if key else uuid.uuid4().hex
        thread = ThreadId(str(uuid.uuid5(_THREADS_BY_KEY, name)))
        await desk.library("threads", "create", thread, {}, "do_nothing")
        return thread
    if body.on_completion == "delete":
        # Taking it silently would let the caller believe that nothing is kept.
        raise InvalidInput(
            "a thread is not deleted with a run", fix="DELETE /threads/ID after it", code="unsupported"
        )
    if body.if_not_exists == "create":
        await desk.library("threads", "create", ThreadId(body.thread_id), {}, "do_nothing")
    return body.thread_id


async def wait_for(desk: Desk, run: RunId) -> RunWaitJson:
    """The run once it is over, or waits for a person."""
    while True:
        record: RunRecord = await desk.call("wait", run, WAIT_SLICE_S)
        if record.status not in RESTING:
            continue
        steps: Sequence[StepRecord] = ()
        if record.status == "waiting":
            record, steps = await desk.call("get", run)
        return wait_json(record, steps)


async def wait_or_cancel(desk: Desk, run: RunId, wish: str) -> RunWaitJson:
    """A client that leaves in the meantime may have asked that its run goes with it."""
    try:
        return await wait_for(desk, run)
    except asyncio.CancelledError:
        if wish == "cancel":
            cancel_soon(desk, run)
        raise


def cancel_soon(desk: Desk, run: RunId) -> None:
    in_background(_cancel(desk, run))


async def _cancel_sent(desk: Desk, sending: "asyncio.Task[RunRecord]") -> None:
    try:
        record = await sending
    except MantaError:
        # There is no run.
        return
    await _cancel(desk, RunId(record.id))


async def _cancel(desk: Desk, run: RunId) -> None:
    try:
        await desk.call("cancel", run)
    except MantaError as error:
        # Nobody is left to tell: the run is over already, or goes on until its deadline.
        logger.warning("run %s was not cancelled after its client left: %s", run, error)
