"""A run told as a response in OpenAI's shape, and the events of its stream. Pure: the same run, the same words."""

from collections.abc import Mapping
from itertools import count
from typing import Any

from coordinator.store.records import TERMINAL_STATUSES, RunRecord
from manta.errors import MantaError, error_from_json
from manta.ids import RunId
from manta.messages import ChatChunk, from_json
from serve_app.gateway.hidden_graphs import RESPONSE_GRAPH
from serve_app.gateway.openai.graph_inputs import output_text
from serve_app.gateway.openai.response_shapes import Events, ResponseWriter

ECHOED = "openai_response"
"""The entry of a run's metadata with what its response repeats of its request, and the model's name."""


def background_response(record: RunRecord) -> dict[str, Any]:
    """As it is now: without its output until it is over."""
    writer = _writer(record)
    _written(writer, record)
    return _as_it_is(writer.response(), record)


def response_events(record: RunRecord) -> Events:
    """Those there are by now: the beginning, and once it is over everything."""
    writer = _writer(record)
    events = [*writer.begin(), *_written(writer, record)]
    return [
        {**event, "response": _as_it_is(event["response"], record, last=event is events[-1])}
        if "response" in event
        else event
        for event in events
    ]


def _writer(record: RunRecord) -> ResponseWriter:
    echoed = _echoed(record)
    numbers = count()
    return ResponseWriter(
        str(echoed.pop("model", record.graph_name)),
        RunId(record.id),
        echoed,
        logprobs=True,
        made_at=int(record.created_at),
        ids=lambda kind: f"{kind}{record.id.replace('-', '')}{next(numbers)}",
    )


def _echoed(record: RunRecord) -> dict[str, Any]:
    """Anybody who starts a run may have put anything there."""
    echoed = record.metadata.get(ECHOED)
    return {**echoed} if isinstance(echoed, Mapping) else {}


def _written(writer: ResponseWriter, record: RunRecord) -> Events:
    """What the run's end adds."""
    if record.status == "success":
        return [*writer.take(_answer(record)), *writer.end()]
    if record.status in TERMINAL_STATUSES:
        return writer.fail(_failure(record))
    return []


def _answer(record: RunRecord) -> ChatChunk:
    if record.graph_name == RESPONSE_GRAPH:
        return from_json(ChatChunk, record.output)
    return ChatChunk(output_text(record.output), finish_reason="stop", usage=record.usage)


def _failure(record: RunRecord) -> MantaError:
    if record.error is not None:
        return error_from_json(record.error)
    return MantaError(f"the run ended: {record.reason or record.status}", fix=f"GET /runs/{record.id}")


def _as_it_is(response: dict[str, Any], record: RunRecord, *, last: bool = True) -> dict[str, Any]:
    """The fields that a run knows better than whoever writes its answer down."""
    ended = last and record.status in TERMINAL_STATUSES
    if not ended:
        return {**response, "status": "queued" if record.status == "pending" else "in_progress"}
    if record.status == "interrupted" and record.cancel_requested:
        return {**response, "status": "cancelled", "error": None}
    done = response["status"] == "completed"
    return {**response, "completed_at": int(record.updated_at) if done else None}
