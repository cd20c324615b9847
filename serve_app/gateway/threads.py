"""Threads: what is remembered from run to run, in the shapes of the Agent Protocol."""

from typing import Annotated, Any, Literal, NotRequired

from fastapi import APIRouter, Query, Response
from pydantic import WithJsonSchema
from typing_extensions import TypedDict

from coordinator.store.library_records import ThreadRecord, ThreadState
from manta.errors import NotFound
from manta.ids import ThreadId
from serve_app.gateway.bodies import StrictRoute
from serve_app.gateway.body_types import Body, Limit, Message, Metadata, Offset, Uuid
from serve_app.gateway.deps import DeskDep, PageLimit, ThreadPath, known_id
from serve_app.gateway.errors import READING, TAKING, BadCursor, declared
from serve_app.gateway.links import TO_THREAD
from serve_app.gateway.repeats import RequestKey, gone, made_id
from serve_app.gateway.shapes import Stamp, stamp
from serve_app.gateway.shapes import Uuid as UuidJson

router = APIRouter(tags=["threads"], route_class=StrictRoute, responses=READING)

ThreadStatus = Literal["idle", "busy", "interrupted", "error"]


Before = Annotated[
    str | None,
    WithJsonSchema({"type": "string", "format": "uuid"}),
    Query(description="A checkpoint; states older than it."),
]


class ThreadCreate(Body):
    thread_id: Uuid | None = None
    """Null makes a new one."""
    metadata: Metadata = {}
    if_exists: Literal["raise", "do_nothing"] = "raise"


class ThreadSearch(Body):
    """Entries of `metadata` and `values` must all be there with exactly these values."""

    metadata: Metadata | None = None
    values: dict[str, Any] | None = None
    status: ThreadStatus | None = None
    limit: Limit = 10
    offset: Offset = 0


class CheckpointBody(Body):
    checkpoint_id: Uuid


class ThreadPatch(Body):
    """`values` and `messages` make a new state, on top of the latest or of `checkpoint`; `metadata` is merged."""

    checkpoint: CheckpointBody | None = None
    metadata: Metadata | None = None
    values: dict[str, Any] | None = None
    messages: list[Message] | None = None


class ThreadJson(TypedDict):
    """The protocol's `Thread`."""

    thread_id: UuidJson
    created_at: Stamp
    updated_at: Stamp
    metadata: dict[str, Any]
    status: ThreadStatus
    values: dict[str, Any]
    messages: list[dict[str, Any]]


class CheckpointJson(TypedDict):
    checkpoint_id: UuidJson


class StateMetadata(TypedDict):
    """`run_id`: who made the state; none for a patch. `parent`: the checkpoint it was made from."""

    created_at: Stamp
    run_id: NotRequired[str]
    parent: NotRequired[str]


class ThreadStateJson(TypedDict):
    """The protocol's `ThreadState`."""

    checkpoint: CheckpointJson
    values: dict[str, Any]
    messages: list[dict[str, Any]]
    metadata: StateMetadata


@router.post("/threads", responses={**TAKING, **declared(409), **TO_THREAD})
async def create_thread(body: ThreadCreate, desk: DeskDep, key: RequestKey) -> ThreadJson:
    thread = ThreadId(body.thread_id or made_id(desk, "thread", key))
    if_exists = body.if_exists if body.thread_id else "raise"
    return thread_json(await desk.library("threads", "create", thread, body.metadata, if_exists, key))


@router.post("/threads/search", responses=TAKING)
async def search_threads(body: ThreadSearch, desk: DeskDep) -> list[ThreadJson]:
    """Newest first."""
    found: list[ThreadRecord] = await desk.library(
        "threads", "search", body.metadata, body.values, body.status, body.limit, body.offset
    )
    return [thread_json(thread) for thread in found]


@router.get("/threads/{thread_id}")
async def get_thread(thread: ThreadPath, desk: DeskDep) -> ThreadJson:
    return thread_json(await desk.library("threads", "get", thread))


@router.patch("/threads/{thread_id}", responses={**TAKING, **declared(409)})
async def patch_thread(thread: ThreadPath, body: ThreadPatch, desk: DeskDep, key: RequestKey) -> ThreadJson:
    messages = None if body.messages is None else [message.plain() for message in body.messages]
    checkpoint = body.checkpoint.checkpoint_id if body.checkpoint else None
    return thread_json(
        await desk.library("threads", "patch", thread, body.metadata, body.values, messages, checkpoint, key)
    )


@router.delete("/threads/{thread_id}", status_code=204, response_class=Response, responses=declared(409))
async def delete_thread(thread: ThreadPath, desk: DeskDep) -> Response:
    await desk.library("threads", "get", thread)
    await gone(desk.library("threads", "delete", thread))
    return Response(status_code=204)


@router.post("/threads/{thread_id}/copy", responses=TO_THREAD)
async def copy_thread(thread: ThreadPath, desk: DeskDep, key: RequestKey) -> ThreadJson:
    """A thread of its own with the same states; later changes of either do not reach the other."""
    copied = ThreadId(made_id(desk, f"copy {thread}", key))
    return thread_json(await desk.library("threads", "copy", thread, copied))


@router.get("/threads/{thread_id}/history")
async def get_thread_history(
    thread: ThreadPath,
    desk: DeskDep,
    limit: PageLimit = 10,
    before: Before = None,
) -> list[ThreadStateJson]:
    """Newest first."""
    states = await history(desk, thread, limit, before)
    return [state_json(state) for state in states]


async def history(desk: DeskDep, thread: ThreadId, limit: int, before: str | None) -> list[ThreadState]:
    """Raises BadCursor when `before` is not a checkpoint of the thread."""
    if before is None:
        found: list[ThreadState] = await desk.library("threads", "history", thread, limit, None)
        return found
    await desk.library("threads", "get", thread)
    try:
        found = await desk.library("threads", "history", thread, limit, known_id(before, "checkpoint"))
    except NotFound:
        raise BadCursor(
            "before is not a checkpoint of this thread", fix="take one from its history"
        ) from None
    return found


def thread_json(thread: ThreadRecord) -> ThreadJson:
    return {
        "thread_id": thread.id,
        "created_at": stamp(thread.created_at),
        "updated_at": stamp(thread.updated_at),
        "metadata": thread.metadata,
        "status": thread.status,
        "values": thread.values,
        "messages": list(thread.messages),
    }


def state_json(state: ThreadState) -> ThreadStateJson:
    metadata: StateMetadata = {"created_at": stamp(state.created_at)}
    if state.run is not None:
        metadata["run_id"] = state.run
    if state.base is not None:
        metadata["parent"] = state.base
    return {
        "checkpoint": {"checkpoint_id": state.checkpoint},
        "values": state.values,
        "messages": list(state.messages),
        "metadata": metadata,
    }
