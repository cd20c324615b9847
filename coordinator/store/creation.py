"""How runs come into the journal: once for each request, alone or many together."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Connection, bindparam, update

from coordinator.store import threads
from coordinator.store.bulk import Bulk, inserted, text_of
from coordinator.store.copies import copy_steps
from coordinator.store.engine import dumps
from coordinator.store.leases import require_turn
from coordinator.store.records import NewRun, RunRecord
from coordinator.store.rows import (
    label,
    lock_thread,
    parsed_graph,
    plain,
    require_name,
    run_query,
    run_record,
    usage_values,
)
from coordinator.store.schema import RESERVED_FIELDS, graphs, run_inputs, run_labels, runs, sequences
from manta.errors import Conflict, IdempotencyConflict
from manta.messages import Usage, to_json

Created: TypeAlias = tuple[RunRecord, bool]
Creation: TypeAlias = tuple[NewRun, str | None]
"""The run, and who has it from the start."""

# A graph that is there has the same content: its version is the hash of it.
_WRITE_GRAPHS = Bulk(lambda kind: inserted(kind, graphs).on_conflict_do_nothing())  # type: ignore[attr-defined]
_WRITE_RUNS = Bulk(lambda kind: inserted(kind, runs).on_conflict_do_nothing())  # type: ignore[attr-defined]
_WRITE_INPUTS = Bulk(lambda kind: inserted(kind, run_inputs))
_WRITE_LABELS = Bulk(lambda kind: inserted(kind, run_labels))
_TAKE_NUMBERS = (
    update(sequences)
    .where(sequences.c.name == "runs")
    .values(last=sequences.c.last + bindparam("count"))
    .returning(sequences.c.last)
)
_MADE_UP = ("usage", "budget", "graph", "input", "metadata", "overrides")
_AS_WRITTEN = tuple(f.name for f in dataclasses.fields(RunRecord) if f.name not in _MADE_UP)
_BLANK: dict[str, Any] = {
    "reason": None,
    "error": None,
    "output": None,
    "cancel_requested": False,
    "last_seq": 0,
    "last_entry": 0,
    "open_calls": 0,
    "open_decisions": 0,
    "takeovers": 0,
    "wake_at": None,
    **usage_values(Usage()),
    **dict.fromkeys(RESERVED_FIELDS, 0),
}


def create_run(connection: Connection, new: NewRun, owner: str | None, now: float) -> Created:
    """Writes the run, unless the same request has been written before; the flag says which."""
    _require_names(new, owner)
    existing = _same_request(connection, new)
    if existing is not None:
        return existing, False
    if new.thread is not None:
        owner = _on_thread(connection, new, new.thread, owner)
    written = _insert(connection, [(new, owner)], now)
    if written is None:
        # Another process was faster with the same key.
        existing = _same_request(connection, new)
        if existing is None:
            raise _used(new.id)
        return existing, False
    if new.forked_from is not None:
        copy_steps(connection, new, new.forked_from)
    return written[0], True


def create_together(
    connection: Connection, creations: Sequence[Creation], now: float
) -> list[Created] | None:
    """The same for many; None if one does not fit here, and then nothing must be kept.

    Raises:
        InvalidInput: a name or a value cannot be kept. NotFound: an id cannot be one.
    """
    if any(new.thread is not None or new.forked_from is not None for new, _ in creations):
        return None
    for new, owner in creations:
        _require_names(new, owner)
    written = _insert(connection, creations, now)
    return None if written is None else [(record, True) for record in written]


def _insert(connection: Connection, creations: Sequence[Creation], now: float) -> list[RunRecord] | None:
    """Writes the runs; None if an id or an idempotency key is there already."""
    last: int = connection.execute(_TAKE_NUMBERS, {"count": len(creations)}).scalar_one()
    numbers = range(last - len(creations) + 1, last + 1)
    rows = [
        _run_row(new, number, owner, now) for number, (new, owner) in zip(numbers, creations, strict=True)
    ]
    contents = {(new.tenant, new.graph_version): new.graph for new, _ in creations}
    texts = {key: dumps(content) for key, content in contents.items()}
    _WRITE_GRAPHS.run(
        connection, [{"tenant": t, "version": v, "content": text} for (t, v), text in texts.items()]
    )
    if not _WRITE_RUNS.run(connection, rows):
        return None
    inputs = [_input_row(new) for new, _ in creations]
    _WRITE_INPUTS.run(connection, inputs)
    _WRITE_LABELS.run(connection, [row for new, _ in creations for row in _label_rows(new)])
    return [
        _record(new, row, own, texts[new.tenant, new.graph_version])
        for (new, _), row, own in zip(creations, rows, inputs, strict=True)
    ]


def _require_names(new: NewRun, owner: str | None) -> None:
    plain(new.id)
    for what in ("tenant", "principal", "graph_name", "graph_version", "body_hash"):
        require_name(what, getattr(new, what))
    for what, value in (("an idempotency key", new.idempotency_key), ("owner", owner)):
        if value is not None:
            require_name(what, value)


def _same_request(connection: Connection, new: NewRun) -> RunRecord | None:
    """The run that this request made before, by its idempotency key or (a caller repeats itself) its id."""
    same = [runs.c.id == new.id]
    if new.idempotency_key is not None:
        same.insert(0, runs.c.idempotency_key == new.idempotency_key)
    for found in same:
        row = connection.execute(run_query().where(runs.c.tenant == new.tenant, found)).one_or_none()
        if row is None:
            continue
        if row.body_hash == new.body_hash and row.idempotency_key == new.idempotency_key:
            return run_record(row)
        raise _used(row.id)
    return None


def _on_thread(connection: Connection, new: NewRun, thread: str, owner: str | None) -> str | None:
    """Who has the run from the start: nobody if it has to queue for its thread. Raises Conflict, NotFound."""
    threads.require(connection, new.tenant, thread)
    lock_thread(connection, new.tenant, thread)
    try:
        require_turn(connection, new.tenant, thread, None)
    except Conflict:
        if new.reject_if_busy:
            raise
        return None
    return owner


def _used(run_id: str) -> IdempotencyConflict:
    return IdempotencyConflict(
        f"the idempotency key or id of run {run_id} was used with another request",
        fix="use a new Idempotency-Key for a new request",
    )


def _run_row(new: NewRun, number: int, owner: str | None, now: float) -> dict[str, Any]:
    return {
        **_BLANK,
        "number": number,
        "tenant": new.tenant,
        "id": new.id,
        "principal": new.principal,
        "graph_name": new.graph_name,
        "graph_version": new.graph_version,
        "idempotency_key": new.idempotency_key,
        "body_hash": new.body_hash,
        "status": "pending" if owner is None else "running",
        "epoch": 0 if owner is None else 1,
        "owner": owner,
        "deadline": new.deadline,
        "created_at": now,
        "updated_at": now,
        "priority": new.priority,
        "max_active": new.graph.get("max_active"),
        "budget": text_of(to_json(new.budget)),
        "thread": new.thread,
        "webhook": new.webhook,
        "forked_from": new.forked_from,
    }


def _input_row(new: NewRun) -> dict[str, Any]:
    return {
        "tenant": new.tenant,
        "run_id": new.id,
        "input": text_of(new.input),
        "metadata": dumps(new.metadata),
        "overrides": dumps(new.overrides) if new.overrides else None,
    }


def _label_rows(new: NewRun) -> list[dict[str, Any]]:
    return [
        {"tenant": new.tenant, "run_id": new.id, "label": label(key, value)}
        for key, value in new.metadata.items()
    ]


def _record(new: NewRun, row: Mapping[str, Any], inputs: Mapping[str, Any], graph: str) -> RunRecord:
    """The run as it would be read back."""
    return RunRecord(
        **{name: row[name] for name in _AS_WRITTEN},
        budget=new.budget,
        usage=Usage(),
        graph=parsed_graph(graph),
        input=None if inputs["input"] is None else json.loads(inputs["input"]),
        metadata=json.loads(inputs["metadata"]),
        overrides={} if inputs["overrides"] is None else json.loads(inputs["overrides"]),
    )
