"""/v1/batches: requests in a file, answered in a file. A batch is a run that gives way to all others."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import Field, field_validator

from coordinator.store.records import RunRecord
from manta.errors import NotFound
from manta.ids import RunId
from manta.messages import to_json
from serve_app.gateway.deps import Desk, DeskDep, IdempotencyKey
from serve_app.gateway.errors import BadField
from serve_app.gateway.hidden_graphs import BATCH_GRAPH
from serve_app.gateway.openai.batch_endpoints import ENDPOINTS
from serve_app.gateway.openai.batch_results import batch_behind
from serve_app.gateway.openai.batch_shapes import BATCH_PREFIX, Batch, batch_in_sum, batch_json
from serve_app.gateway.openai.batch_work import GRACE_S
from serve_app.gateway.openai.bodies import Metadata, OpenAIBody
from serve_app.gateway.openai.file_records import StoredFile, find
from serve_app.gateway.openai.lists import listed
from serve_app.gateway.openai.routing import RUNNING, openai_router
from serve_app.gateway.openai.run_ids import run_in
from serve_app.gateway.openai.run_sending import send
from serve_app.gateway.run_bodies import RunCreate

PRIORITY = 50
"""Of a batch's run: behind all that somebody waits for."""
HOUR_S = 3600.0
PAGE = 100

router = openai_router()


class BatchBody(OpenAIBody):
    refused = {"output_expires_after": "files stay as long as the batch's run"}

    input_file_id: str
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/responses"]
    completion_window: Annotated[str, Field(pattern="^([1-9]|[1-9][0-9]|1[0-5][0-9]|16[0-8])h$")]
    """`24h`, or any number of hours up to a week."""
    metadata: Metadata | None = None
    output_expires_after: None = None

    @field_validator("endpoint", mode="before")
    @classmethod
    def _known(cls, told: Any) -> Any:
        if told == "/v1/embeddings":
            raise BadField(
                "embeddings are not made in batches",
                fix="POST /v1/embeddings, with up to 2,048 texts at once",
                param="endpoint",
            )
        if isinstance(told, str) and told not in ENDPOINTS:
            raise BadField(
                f"no batch asks {told[:80]}", fix=f"one of: {', '.join(ENDPOINTS)}", param="endpoint"
            )
        return told

    @property
    def window_s(self) -> float:
        return int(self.completion_window.removesuffix("h")) * HOUR_S


@router.post("/batches", responses=RUNNING)
async def create_batch(body: BatchBody, desk: DeskDep, key: IdempotencyKey = None) -> dict[str, Any]:
    """Durable when this returns. Its file is looked at as the first step of the run."""
    file = await _input_file(desk, body.input_file_id)
    told = {
        "file": to_json(file.ref),
        "input_file_id": body.input_file_id,
        "endpoint": body.endpoint,
        "completion_window": body.completion_window,
        "model": desk.platform.default_model,
    }
    run = RunCreate(
        agent_id=BATCH_GRAPH,
        input=told,
        metadata=dict(body.metadata or {}),
        priority=PRIORITY,
        timeout_s=body.window_s + GRACE_S,
    )
    return batch_json(Batch(await send(desk, run, key)))


async def _input_file(desk: Desk, file_id: str) -> StoredFile:
    try:
        return await find(desk, file_id)
    except NotFound as error:
        raise BadField(error.message, fix=error.fix, code="file_not_found", param="input_file_id") from None


@router.get("/batches")
async def list_batches(
    desk: DeskDep, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None
) -> dict[str, Any]:
    """Newest first."""
    offset = 0 if after is None else await _behind(desk, after)
    found = await _page(desk, limit + 1, offset)
    batches = await asyncio.gather(*(_as_listed(desk, record) for record in found[:limit]))
    return listed([batch_json(batch) for batch in batches], more=len(found) > limit)


async def _page(desk: Desk, limit: int, offset: int) -> list[RunRecord]:
    filters = {"graph": BATCH_GRAPH, "limit": limit, "offset": offset}
    found: list[RunRecord] = await desk.call("search", filters)
    return found


async def _behind(desk: Desk, after: str) -> int:
    """The place behind a batch, among all. Raises BadField."""
    run, offset = run_in(after, BATCH_PREFIX), 0
    while run is not None:
        ids = [record.id for record in await _page(desk, PAGE, offset)]
        if run in ids:
            return offset + ids.index(run) + 1
        if len(ids) < PAGE:
            break
        offset += PAGE
    raise BadField("after is not in the list", fix="take the last id of the page before", param="after")


async def _as_listed(desk: Desk, record: RunRecord) -> Batch:
    if record.status == "success":
        return batch_in_sum(record)
    # One that was deleted since is told as it was.
    return await batch_behind(desk, RunId(record.id)) or Batch(record)


@router.get("/batches/{batch_id}")
async def retrieve_batch(batch_id: str, desk: DeskDep) -> dict[str, Any]:
    return batch_json(await _found(desk, batch_id))


@router.post("/batches/{batch_id}/cancel", responses=RUNNING)
async def cancel_batch(batch_id: str, desk: DeskDep) -> dict[str, Any]:
    """What is answered by now stays. 409 `run_terminal`: it is over, and was not cancelled."""
    batch = await _found(desk, batch_id)
    await desk.call("cancel", RunId(batch.record.id))
    return batch_json(await _found(desk, batch_id))


async def _found(desk: Desk, batch_id: str) -> Batch:
    batch = await batch_behind(desk, run_in(batch_id, BATCH_PREFIX))
    if batch is None:
        raise NotFound(f"No batch found with id '{batch_id[:100]}'.", fix="GET /v1/batches")
    return batch
