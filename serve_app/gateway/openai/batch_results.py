"""The files that a batch leaves: put together when they are read, from what its parts have come to."""

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Any, Literal

from coordinator.store.records import RunRecord, StepRecord
from manta.errors import NotFound
from manta.ids import RunId
from manta.messages import ArtifactRef
from serve_app.gateway.deps import Desk
from serve_app.gateway.hidden_graphs import BATCH_GRAPH
from serve_app.gateway.openai.batch_lines import encoded, lines_of, not_done, not_done_bytes
from serve_app.gateway.openai.batch_shapes import Batch, Part, batch_of, result_id
from serve_app.gateway.openai.run_ids import UUID

Kind = Literal["output", "errors"]
_RESULT = re.compile(f"file-({UUID})-(output|errors)")


async def batch_behind(desk: Desk, run: RunId | None) -> Batch | None:
    """The caller's batch of that run; None if there is none."""
    if run is None:
        return None
    record: RunRecord
    steps: list[StepRecord]
    try:
        record, steps = await desk.call("get", run)
    except NotFound:
        return None
    return batch_of(record, steps) if record.graph_name == BATCH_GRAPH else None


async def result_file(desk: Desk, file_id: str) -> tuple[Batch, Kind] | None:
    """The batch and which of its files an id names; None if there is no such file, or not yet."""
    match = _RESULT.fullmatch(file_id)
    batch = await batch_behind(desk, None if match is None else RunId(match[1]))
    if match is None or batch is None or not batch.over:
        return None
    kind: Kind = "output" if match[2] == "output" else "errors"
    there = batch.completed if kind == "output" else batch.failed
    return (batch, kind) if there else None


def result_json(batch: Batch, kind: Kind) -> dict[str, Any]:
    """As OpenAI tells of a file."""
    return {
        "id": result_id(batch.record, kind),
        "object": "file",
        "bytes": sum(_size(part, kind) for part in batch.parts),
        "created_at": int(batch.record.updated_at),
        "expires_at": None,
        "filename": f"batch_{batch.record.id}_{kind}.jsonl",
        "purpose": "batch_output",
        "status": "processed",
        "status_details": None,
    }


def _size(part: Part, kind: Kind) -> int:
    kept = part.output if kind == "output" else part.errors
    if kept is not None:
        return kept.size
    left_out = kind == "errors" and not part.done
    return not_done_bytes(part.lines, part.id_bytes, *part.fault) if left_out else 0


async def result_lines(desk: Desk, batch: Batch, kind: Kind) -> AsyncGenerator[bytes, None]:
    """Its content, part by part, in the order of the requests within each file."""
    for part in batch.parts:
        kept: ArtifactRef | None = part.output if kind == "output" else part.errors
        if kept is not None:
            yield await desk.platform.artifacts.get(kept)
        elif kind == "errors" and not part.done:
            yield await _left_out(desk, part)


async def _left_out(desk: Desk, part: Part) -> bytes:
    """What is told of the requests of a part that could not be done."""
    return await asyncio.to_thread(_told, await desk.platform.artifacts.get(part.file), *part.fault)


def _told(requests: bytes, code: str, message: str) -> bytes:
    return encoded([not_done(line.custom_id, code, message) for line in lines_of(requests)])
