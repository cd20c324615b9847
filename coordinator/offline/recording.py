"""What the journal has of a run: enough to execute it again without models and tools."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, func, select

from agents.request_deltas import restore
from coordinator.store import reads, rows
from coordinator.store.library_schema import thread_states
from coordinator.store.records import RunRecord, StepCall, StepRecord
from coordinator.store.schema import runs
from coordinator.store.thread_reads import read_states
from manta.errors import Conflict
from manta.events import Event
from manta.ids import RunId, StepKey
from manta.messages import RecordedCall, Usage

NEVER = 1 << 60
"""The order of what did not end."""
_EVENTS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class StepRecording:
    """A step execution as it was recorded.

    `order`: orders executions by their ends. `calls`: in the order in which they were first begun, their
    requests whole, with the attempt that last began each. `copied`: taken over from another run, so it did not
    run in this one. `asked`: of an approval, what the person was shown. `spent`: what the run had used when it
    was dispatched.
    """

    record: StepRecord
    order: int
    calls: tuple[tuple[RecordedCall, int], ...] = ()
    copied: bool = False
    asked: dict[str, Any] | None = None
    spent: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class Recording:
    """`notes`: what agents asked of models besides their calls, by all steps: `info` by model, `counts` by hash."""

    run: RunRecord
    steps: Mapping[StepKey, StepRecording]
    notes: Mapping[str, Mapping[str, Any]]
    thread: dict[str, Any] | None = None

    @property
    def complete(self) -> bool:
        """Whether the run ended well: then everything it does is in the record."""
        return self.run.status == "success"


def read_recording(connection: Connection, run_id: RunId) -> Recording:
    """The run with all that is recorded of it.

    Raises:
        NotFound: no such run.
        Conflict: code `record_cleared`, the wording of its calls is gone.
    """
    tenant = connection.execute(
        select(runs.c.tenant).where(runs.c.id == rows.plain(run_id))
    ).scalar_one_or_none()
    if tenant is None:
        raise rows.run_not_found(run_id)
    run = rows.read_run(connection, tenant, run_id)
    events = list(_events(connection, run_id))
    calls = reads.read_calls(connection, run_id, whole=True)
    _require_wording(run, calls)
    steps = reads.read_steps(connection, run_id)
    return Recording(
        run, _steps(steps, calls, events), _notes(steps, calls), _thread(connection, run, events)
    )


def _events(connection: Connection, run_id: RunId) -> Sequence[Event]:
    events: list[Event] = []
    while page := reads.read_events(connection, run_id, len(events), _EVENTS_AT_ONCE):
        events += page
    return events


def _require_wording(run: RunRecord, calls: Sequence[StepCall]) -> None:
    for step in calls:
        call = step.call
        answered = call.response is not None or call.error is not None or call.state != "done"
        if call.request is None or not answered:
            raise Conflict(
                f"what the calls of run {run.id} said is gone from the journal: retention.calls_days is over",
                fix="replay a younger run, or raise retention.calls_days",
                code="record_cleared",
            )


def _steps(
    steps: Sequence[StepRecord], calls: Sequence[StepCall], events: Sequence[Event]
) -> dict[StepKey, StepRecording]:
    own: dict[StepKey, list[StepCall]] = {step.key: [] for step in steps}
    for call in calls:
        own.setdefault(call.step, []).append(call)
    here = {event.step for event in events if event.step is not None}
    asked = {event.step: event.data for event in events if event.type == "step_waiting"}
    ends = {event.step: event.seq for event in events if event.type in ("step_done", "step_failed")}
    spent = _spent(steps, events, here, ends)
    return {
        step.key: StepRecording(
            step,
            ends.get(step.key, NEVER) if step.key in here else 0,
            _whole(own[step.key]),
            step.key not in here,
            asked.get(step.key),
            spent.get(step.key, Usage()),
        )
        for step in steps
    }


def _whole(calls: Sequence[StepCall]) -> tuple[tuple[RecordedCall, int], ...]:
    bodies = restore({kept.call.key: kept.call.request or {} for kept in calls})
    return tuple((replace(kept.call, request=bodies[kept.call.key]), kept.attempt) for kept in calls)


def _spent(
    steps: Sequence[StepRecord],
    events: Sequence[Event],
    here: Collection[StepKey],
    ends: Mapping[StepKey | None, int],
) -> dict[StepKey, Usage]:
    """What the run had used when each step was last dispatched: as an agent is told, that of finished steps."""
    usage = {step.key: step.usage for step in steps}
    total = sum((step.usage for step in steps if step.key not in here), Usage())
    spent: dict[StepKey, Usage] = {}
    for event in events:
        if event.step is None:
            continue
        if event.type == "step_started":
            spent[event.step] = total
        elif ends.get(event.step) == event.seq:
            total += usage.get(event.step, Usage())
    return spent


def _notes(steps: Sequence[StepRecord], calls: Sequence[StepCall]) -> dict[str, dict[str, Any]]:
    together: dict[str, dict[str, Any]] = {"info": {}, "counts": {}}
    for notes in (*(kept.call.notes for kept in calls), *(step.notes for step in steps)):
        for kind, noted in (notes or {}).items():
            together.setdefault(kind, {}).update(noted)
    return together


def _thread(connection: Connection, run: RunRecord, events: Sequence[Event]) -> dict[str, Any] | None:
    """The thread as it was when the run began, as references see it."""
    if run.thread is None:
        return None
    began = next((event.at for event in events if event.type == "run_started"), run.created_at)
    number = connection.execute(
        select(func.max(thread_states.c.number)).where(
            thread_states.c.tenant == run.tenant,
            thread_states.c.thread_id == run.thread,
            thread_states.c.created_at <= began,
        )
    ).scalar_one()
    states = [] if number is None else read_states(connection, run.tenant, run.thread, 1, before=number + 1)
    if not states:
        return {"id": run.thread, "messages": [], "values": {}}
    return {"id": run.thread, "messages": list(states[0].messages), "values": states[0].values}
