"""What people do with runs beside starting them: answer, fork, resume, rate, look into. Manta's own routes."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query
from typing_extensions import TypedDict

from coordinator.forks import Fork
from coordinator.store.library_records import FeedbackRecord
from coordinator.store.records import RunRecord, StepCall, StepRecord
from manta.errors import NotFound
from manta.ids import RunId, StepKey
from manta.messages import Budget
from serve_app.gateway.bodies import StrictRoute
from serve_app.gateway.deps import Desk, DeskDep, PageOffset, RunPath
from serve_app.gateway.errors import READING, TAKING, declared
from serve_app.gateway.links import TO_RUN
from serve_app.gateway.repeats import RequestKey, made_id
from serve_app.gateway.run_bodies import DecisionBody, FeedbackBody, ForkBody, ResumeBody
from serve_app.gateway.shapes import (
    ApprovalJson,
    CallJson,
    RunJson,
    Stamp,
    Uuid,
    run_json,
    stamp,
    waiting_json,
)

router = APIRouter(tags=["run control"], route_class=StrictRoute, responses=READING)

_CHANGING = {**TAKING, **declared(409)}


class FeedbackJson(TypedDict):
    feedback_id: Uuid
    run_id: Uuid
    rating: int | None
    comment: str
    by: str
    created_at: Stamp


@router.get("/approvals")
async def list_approvals(
    desk: DeskDep,
    limit: Annotated[int, Query(ge=1, le=200, description="Of runs, each with all that waits in it.")] = 50,
    offset: PageOffset = 0,
) -> list[ApprovalJson]:
    """Everything that waits for a person, that of the newest runs first, also where other steps are at work."""
    filters = {"asking": True, "limit": limit, "offset": offset}
    records: list[RunRecord] = await desk.call("search", filters)
    found = await asyncio.gather(*(_waiting(desk, record) for record in records))
    return [approval for approvals in found for approval in approvals]


async def _waiting(desk: Desk, record: RunRecord) -> list[ApprovalJson]:
    steps: list[StepRecord]
    record, steps = await desk.call("get", RunId(record.id))
    return [
        {
            **waiting_json(step),
            "run_id": record.id,
            "agent_id": record.graph_name,
            "thread_id": record.thread,
            "metadata": record.metadata,
        }
        for step in steps
        if step.state == "waiting"
    ]


@router.post("/runs/{run_id}/decisions", responses=_CHANGING)
async def decide(run: RunPath, body: DecisionBody, desk: DeskDep, key: RequestKey) -> RunJson:
    """A person's answer to a step that waits; durable when this returns, and the run goes on by itself.

    409: nothing waits there, several steps do and none was named, or it was decided otherwise.
    """
    step = None if body.step is None else StepKey(body.step)
    record: RunRecord = await desk.call(
        "decide", run, step, body.action, body.value, body.comment, desk.caller.principal, key
    )
    return run_json(record)


@router.post("/runs/{run_id}/fork", responses={**_CHANGING, **TO_RUN})
async def fork_run(run: RunPath, body: ForkBody, desk: DeskDep, key: RequestKey) -> RunJson:
    """A new run that goes on from a step of this one, perhaps with another input."""
    asked = Fork(StepKey(body.step), body.input, desk.caller.principal, key)
    try:
        record: RunRecord = await desk.call("fork", run, asked)
    except NotFound:
        await desk.call("get", run)
        raise NotFound(
            f"the run has no step execution {body.step[:100]!r}", fix="GET /runs/ID", code="unknown_step"
        ) from None
    return run_json(record)


@router.post("/runs/{run_id}/resume", responses=_CHANGING)
async def resume_run(run: RunPath, body: ResumeBody, desk: DeskDep, key: RequestKey) -> RunJson:
    """Opens a run that failed, timed out or was cancelled again: what was done stays, what failed runs anew."""
    budget: Budget | None = body.budget.budget() if body.budget else None
    record: RunRecord = await desk.call("resume", run, budget, key)
    return run_json(record)


@router.post("/runs/{run_id}/feedback", responses=TAKING)
async def add_feedback(run: RunPath, body: FeedbackBody, desk: DeskDep, key: RequestKey) -> FeedbackJson:
    """A rating from 1 (worst) to 5, a comment, or both."""
    said = (desk.caller.principal, body.rating, body.comment)
    added = await desk.library("feedback", "add", run, *said, made_id(desk, f"feedback {run}", key))
    return _feedback(added)


@router.get("/runs/{run_id}/feedback")
async def list_feedback(run: RunPath, desk: DeskDep) -> list[FeedbackJson]:
    return [_feedback(record) for record in await desk.library("feedback", "list", run)]


@router.get("/runs/{run_id}/calls")
async def list_calls(
    run: RunPath,
    desk: DeskDep,
    whole: Annotated[bool, Query(description="With requests and responses.")] = False,
) -> list[CallJson]:
    """The record of the run's model and tool calls, in the order in which they were begun."""
    calls: list[StepCall] = await desk.call("calls", run, whole)
    return [_call(made, whole) for made in calls]


def _call(made: StepCall, whole: bool) -> CallJson:
    call = made.call
    shown: CallJson = {
        "step": made.step,
        "attempt": made.attempt,
        "key": call.key,
        "kind": call.kind,
        "name": call.name,
        "state": call.state,
        "usage": call.usage,
        "error": call.error,
    }
    if whole:
        shown["request"], shown["response"] = call.request, call.response
    return shown


def _feedback(record: FeedbackRecord) -> FeedbackJson:
    return {
        "feedback_id": record.id,
        "run_id": record.run,
        "rating": record.rating,
        "comment": record.comment,
        "by": record.principal,
        "created_at": stamp(record.created_at),
    }
