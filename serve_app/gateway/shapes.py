"""Records in the shapes of the Agent Protocol; what Manta adds is in extension fields."""

from datetime import UTC, datetime
from typing import Any

from coordinator.store.records import RunRecord, StepRecord
from manta.messages import to_json


def run_json(record: RunRecord) -> dict[str, Any]:
    """A run as the protocol has it (`running` is the protocol's `pending`), with extensions."""
    return {
        "run_id": record.id,
        "agent_id": record.graph_name,
        "status": "pending" if record.status == "running" else record.status,
        "metadata": record.metadata,
        "input": record.input,
        "created_at": _iso(record.created_at),
        "updated_at": _iso(record.updated_at),
        "graph_version": record.graph_version,
        "reason": record.reason,
        "error": record.error,
        "usage": to_json(record.usage),
    }


def step_json(step: StepRecord) -> dict[str, Any]:
    hidden = {"input", "output"}
    return {key: value for key, value in to_json(step).items() if key not in hidden}


def values_of(record: RunRecord) -> dict[str, Any]:
    """The output object; any other output as `{"output": x}`, and nothing for a run without success."""
    if record.status != "success":
        return {}
    return record.output if isinstance(record.output, dict) else {"output": record.output}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
