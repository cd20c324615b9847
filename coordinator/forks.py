"""Forks and resumptions: what is kept of a run that goes on from one of its steps. Pure."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from coordinator.keys import step_of
from coordinator.scheduler import Execution, Progress
from coordinator.store.records import NewRun, RunRecord, StepRecord
from coordinator.submission import Submission
from manta.errors import NotFound
from manta.graph import Graph
from manta.ids import StepId, StepKey, new_run_id


@dataclass(frozen=True, slots=True)
class Fork:
    """Go on from `step`; `input`, if given, stands in for the one it had."""

    step: StepKey
    input: dict[str, Any] | None = None
    principal: str = "local"
    idempotency_key: str | None = None


def kept(record: RunRecord, graph: Graph, steps: Sequence[StepRecord], step: StepKey) -> tuple[StepKey, ...]:
    """The executions that do not follow from `step`.

    Raises:
        NotFound: the run has no such step execution.
    """
    if step not in {known.key for known in steps}:
        raise NotFound(f"run {record.id} has no step {step!r}", fix="take a key from `manta show`")
    after = _progress(record, graph, steps).downstream(step)
    ended = (known.key for known in steps if known.state in ("done", "skipped"))
    return tuple(key for key in ended if key not in after)


def tolerated(record: RunRecord, graph: Graph, steps: Sequence[StepRecord]) -> frozenset[StepKey]:
    """Failures that the run went on from: what follows from them is done, and must not be contradicted."""
    progress = _progress(record, graph, steps)
    done = {known.key for known in steps if known.state == "done"}
    failed = (known.key for known in steps if known.state == "failed")
    return frozenset(key for key in failed if done & (progress.downstream(key) - {key}))


def _progress(record: RunRecord, graph: Graph, steps: Sequence[StepRecord]) -> Progress:
    """How far the run had come."""
    progress = Progress(graph, record.input, overrides=record.overrides)
    for known in steps:
        if known.state in ("done", "skipped", "failed"):
            name = StepId(step_of(known.key))
            progress.note(Execution(known.key, name, known.state, known.attempt, known.output, known.error))
    return progress


def fork_of(
    record: RunRecord,
    graph: Graph,
    copied: tuple[StepKey, ...],
    asked: Fork,
    now: float,
) -> NewRun:
    """The new run: as the old one was asked for, with what is kept of it, and inputs that stand in for others."""
    submission = Submission(
        graph.name,
        record.input,
        record.tenant,
        asked.principal,
        record.metadata,
        asked.idempotency_key,
        budget=record.budget,
        priority=record.priority,
    )
    new = submission.new_run(new_run_id(), graph, now)
    given = {} if asked.input is None else {asked.step: asked.input}
    body = {"run": record.id, "step": asked.step, "input": asked.input}
    return replace(
        new,
        forked_from=record.id,
        copied=copied,
        overrides={**record.overrides, **given},
        body_hash=hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest(),
    )
