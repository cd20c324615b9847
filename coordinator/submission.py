"""What a caller asks for, and whether the graph can take it. Pure."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jsonschema

from coordinator.store.records import NewRun, RunBrief, RunRecord
from manta.errors import InvalidGraph, InvalidInput
from manta.graph import Graph
from manta.ids import RunId, Tenant, ThreadId
from manta.messages import Budget, to_json


@dataclass(frozen=True, slots=True)
class Submission:
    """`timeout_s` becomes the run's deadline. `reject_if_busy`: refuse the run while its thread has another.

    `cap`: a budget besides the caller's own, which is not part of what was asked for.
    """

    graph: str
    input: Any
    tenant: Tenant
    principal: str = "local"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None
    timeout_s: float | None = None
    thread: ThreadId | None = None
    webhook: str | None = None
    priority: int = 0
    budget: Budget | None = None
    reject_if_busy: bool = False
    cap: Budget | None = None

    def fingerprint(self) -> str:
        """Equal for equal requests: what an idempotency key is checked against."""
        content = {
            name: to_json(getattr(self, name))
            for name in ("graph", "input", "metadata", "timeout_s", "thread", "webhook", "priority", "budget")
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def new_run(self, run: RunId, graph: Graph, now: float) -> NewRun:
        """The run as it is journaled, with the tighter of the graph's limits and the caller's."""
        timeouts = [t for t in (self.timeout_s, graph.timeout_s) if t is not None]
        return NewRun(
            id=run,
            tenant=self.tenant,
            principal=self.principal,
            graph_name=graph.name,
            graph_version=graph.version,
            graph=graph.plain,
            input=self.input,
            metadata=dict(self.metadata),
            idempotency_key=self.idempotency_key,
            body_hash=self.fingerprint(),
            deadline=now + min(timeouts) if timeouts else None,
            priority=self.priority,
            budget=tighter(tighter(self.budget, self.cap), graph.budget),
            thread=self.thread,
            webhook=self.webhook,
            reject_if_busy=self.reject_if_busy,
        )


def brief_of(run: NewRun | RunRecord) -> RunBrief:
    """What admission looks at. A run that is not made yet has no number: it then is the newest."""
    kept = run if isinstance(run, RunRecord) else None
    return RunBrief(
        run.id,
        kept.number if kept else 1 << 60,
        run.tenant,
        run.graph_name,
        kept.status if kept else "pending",
        run.priority,
        run.thread,
        run.graph.get("max_active"),
    )


def tighter(one: Budget | None, other: Budget | None) -> Budget | None:
    """The smaller of each of two budgets' limits."""
    if one is None or other is None:
        return one or other
    limits = {
        name: min((v for v in (getattr(one, name), getattr(other, name)) if v is not None), default=None)
        for name in ("tokens", "model_calls", "tool_calls", "seconds", "money")
    }
    return Budget(**limits)


def check_schemas(graph: Graph) -> None:
    """Raises InvalidGraph when an input schema, the graph's or one of a sub-graph's, is none."""
    try:
        jsonschema.Draft202012Validator.check_schema(graph.input_schema)
    except jsonschema.SchemaError as error:
        where = ".".join(["input_schema", *(str(part) for part in error.absolute_path)])
        raise InvalidGraph(
            f"graph {graph.name}: {where}: {error.message[:300]}", fix="see json-schema.org"
        ) from None
    for step in graph.steps:
        if isinstance(step.graph, Graph):
            check_schemas(step.graph)


def check_input(graph: Graph, value: Any) -> None:
    """Raises InvalidInput when the value does not fit the graph's schema."""
    if not graph.input_schema:
        return
    error = next(iter(_validator(graph).iter_errors(value)), None)
    if error is not None:
        where = ".".join(str(part) for part in error.absolute_path) or "input"
        raise InvalidInput(f"{where}: {error.message[:300]}", fix=f"see GET /agents/{graph.name}/schemas")


_validators: dict[str, jsonschema.Draft202012Validator] = {}


def _validator(graph: Graph) -> jsonschema.Draft202012Validator:
    """Made once for each graph: making one costs more than using it."""
    if graph.version not in _validators:
        _validators[graph.version] = jsonschema.Draft202012Validator(graph.input_schema)
    return _validators[graph.version]
