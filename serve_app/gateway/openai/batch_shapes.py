"""A run of the batch graph told as a batch in OpenAI's shape. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.store.records import TERMINAL_STATUSES, RunRecord, StepRecord
from manta.messages import ArtifactRef, from_json
from serve_app.gateway.openai.batch_lines import MAX_FAULTS
from serve_app.gateway.openai.batch_work import EXPIRED, EXPIRED_MESSAGE, GRACE_S
from serve_app.gateway.openai.response_shapes import response_usage

BATCH_PREFIX = "batch_"
CANCELLED = "batch_cancelled"
CANCELLED_MESSAGE = "No answer to this request was kept: the batch was cancelled before."


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a batch. Without `done` none of its `lines` has an answer that is kept, and `fault` says why."""

    file: ArtifactRef
    lines: int
    id_bytes: int
    done: bool
    output: ArtifactRef | None = None
    errors: ArtifactRef | None = None
    completed: int = 0
    expired: int = 0
    fault: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it is now. `split_at`, `sum_at`: when its parts were known, and when the last was done."""

    record: RunRecord
    total: int = 0
    faults: tuple[dict[str, Any], ...] = ()
    parts: tuple[Part, ...] = ()
    split_at: float | None = None
    sum_at: float | None = None

    @property
    def over(self) -> bool:
        return self.record.status in TERMINAL_STATUSES

    @property
    def completed(self) -> int:
        return sum(part.completed for part in self.parts)

    @property
    def failed(self) -> int:
        """Lines of the error file: once the batch is over all that have no answer."""
        if self.over:
            return sum(part.lines for part in self.parts) - self.completed
        return sum(part.lines - part.completed for part in self.parts if part.done)

    @property
    def status(self) -> str:
        record = self.record
        if not self.over:
            return self._under_way()
        if record.status == "interrupted" and record.cancel_requested:
            return "cancelled"
        if record.status == "timeout" or any(part.expired for part in self.parts):
            return "expired"
        return "completed" if record.status == "success" and not self.faults else "failed"

    def _under_way(self) -> str:
        if self.record.cancel_requested:
            return "cancelling"
        if self.split_at is None:
            return "validating"
        return "in_progress" if self.sum_at is None else "finalizing"


def batch_in_sum(record: RunRecord) -> Batch:
    """A batch whose run ended in success, as its output has it: a single part stands for all of them."""
    told = record.output
    faults, total = tuple(told["errors"]), int(told["total"])
    whole = Part(
        from_json(ArtifactRef, record.input["file"]),
        total,
        0,
        done=True,
        completed=told["completed"],
        expired=told["expired"],
    )
    return Batch(record, total, faults, () if faults else (whole,), told["split_at"], told["sum_at"])


def batch_of(record: RunRecord, steps: Sequence[StepRecord]) -> Batch:
    """What the run's steps have come to."""
    by_key: dict[str, StepRecord] = {step.key: step for step in steps}
    split, summed = by_key.get("split"), by_key.get("sum")
    if split is None or split.state != "done":
        return Batch(record)
    parts = [
        _part(record, told, by_key.get(f"answer[{index}]"))
        for index, told in enumerate(split.output["parts"])
    ]
    return Batch(
        record,
        split.output["total"],
        tuple(split.output["errors"]),
        tuple(parts),
        split.output["at"],
        _sum_at(summed),
    )


def _sum_at(summed: StepRecord | None) -> float | None:
    if summed is None:
        return None
    at: float | None = summed.output["at"] if summed.state == "done" else summed.started_at
    return at


def _part(record: RunRecord, told: dict[str, Any], step: StepRecord | None) -> Part:
    file, lines, id_bytes = from_json(ArtifactRef, told), int(told["lines"]), int(told["id_bytes"])
    if step is None or step.state != "done":
        return Part(file, lines, id_bytes, done=False, fault=_fault(record, step))
    found = step.output
    output, errors = (_file(found[name]) for name in ("output", "errors"))
    return Part(file, lines, id_bytes, True, output, errors, found["completed"], found["expired"])


def _file(told: Any) -> ArtifactRef | None:
    return None if told is None else from_json(ArtifactRef, told)


def _fault(record: RunRecord, step: StepRecord | None) -> tuple[str, str]:
    error = step.error if step is not None and step.state == "failed" else record.error
    if record.status == "interrupted" and record.cancel_requested:
        return CANCELLED, CANCELLED_MESSAGE
    if record.status == "timeout":
        return EXPIRED, EXPIRED_MESSAGE
    error = error or {}
    return str(error.get("code", "batch_failed")), str(error.get("message", "the request was not executed"))


def batch_json(batch: Batch) -> dict[str, Any]:
    record, status, told = batch.record, batch.status, batch.record.input
    ended = int(record.updated_at)
    files = batch.over and bool(batch.parts)
    return {
        "id": f"{BATCH_PREFIX}{record.id}",
        "object": "batch",
        "endpoint": told["endpoint"],
        "errors": _errors(batch) if status == "failed" else None,
        "input_file_id": told["input_file_id"],
        "completion_window": told["completion_window"],
        "status": status,
        "output_file_id": result_id(record, "output") if files and batch.completed else None,
        "error_file_id": result_id(record, "errors") if files and batch.failed else None,
        "created_at": int(record.created_at),
        "in_progress_at": None if batch.split_at is None or batch.faults else int(batch.split_at),
        "expires_at": None if record.deadline is None else int(record.deadline - GRACE_S),
        "finalizing_at": None if batch.sum_at is None or batch.faults else int(batch.sum_at),
        "cancelling_at": ended if status in ("cancelling", "cancelled") else None,
        **{f"{end}_at": ended if status == end else None for end in ENDS},
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "usage": {**response_usage(record.usage)},
        "metadata": record.metadata or None,
    }


ENDS = ("completed", "failed", "expired", "cancelled")


def _errors(batch: Batch) -> dict[str, Any]:
    faults = list(batch.faults)
    if not faults:
        error = batch.record.error or {}
        cause = str(error.get("message", batch.record.reason or "the batch failed"))
        faults = [{"code": error.get("code", "batch_failed"), "message": cause, "param": None, "line": None}]
    return {"object": "list", "data": faults[:MAX_FAULTS]}


def result_id(record: RunRecord, kind: str) -> str:
    """Of the file with a batch's answers (`output`), or with what could not be answered (`errors`)."""
    return f"file-{record.id}-{kind}"
