"""Was anything lost, done twice, done too late or shown to the wrong tenant? Judged from the journal's tables,
read by plain queries, and from a ledger outside it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, create_engine, select

from benchmarks.oracle import of_events
from coordinator.store.engine import dumps, normalise_url
from coordinator.store.records import TERMINAL_STATUSES
from coordinator.store.schema import RESERVED_FIELDS, calls, events, run_inputs, runs, steps

Line = Mapping[str, Any]
Request = tuple[str, str, str]
"""What a call is known by in the journal and in the ledger: run, step, hash of the request."""


@dataclass(frozen=True, slots=True)
class Call:
    """As it was last begun, under `epoch`. `finished_at` is set once the outcome is committed."""

    request: Request
    name: str
    idempotent: bool
    state: str
    failed: bool
    epoch: int
    begun_at: float
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class Story:
    """One run as the tables tell it. `texts`: all that is kept of it. `held`: open calls and reservations."""

    run: str
    tenant: str
    status: str
    epoch: int
    held: Mapping[str, int]
    used: Mapping[str, int]
    steps: Sequence[tuple[str, str]]
    events: Sequence[tuple[int, str, str | None]]
    cancelled_at: float | None
    calls: Sequence[Call]
    called: Mapping[str, int]
    """The sums of the calls' usage, to be equal to what the run has used."""
    texts: Sequence[str]


def request_of(line: Line) -> Request:
    return str(line["run"]), str(line["step"]), str(line["hash"])


def read_stories(url: str) -> list[Story]:
    engine = create_engine(normalise_url(url))
    try:
        with engine.connect() as connection:
            return [
                _story(connection, run) for run in connection.execute(select(runs).order_by(runs.c.number))
            ]
    finally:
        engine.dispose()


def calls_in_flight(url: str, owner: str) -> list[Call]:
    """Those that a coordinator had begun when it died, and that have no outcome."""
    query = select(calls).join(runs, (runs.c.tenant == calls.c.tenant) & (runs.c.id == calls.c.run_id))
    engine = create_engine(normalise_url(url))
    try:
        with engine.connect() as connection:
            open_ = query.where(calls.c.state == "intent", runs.c.owner == owner)
            return [_call(row) for row in connection.execute(open_)]
    finally:
        engine.dispose()


def violations(
    stories: Sequence[Story],
    acknowledged: Iterable[tuple[str, str]],
    ledger: Sequence[Line],
    in_flight: Sequence[Request] | None = None,
    *,
    zombies: bool = False,
) -> list[str]:
    """What went wrong, in words; empty when nothing did.

    Args:
        acknowledged: tenants and runs whose creation was answered.
        in_flight: the calls that had no outcome at each of the deaths; None if nobody knows.
        zombies: some processes stood still for a while. A call that one had begun and not yet made is made when it
            wakes, which nobody can hinder; it has an epoch that is over.
    """
    there = {(story.tenant, story.run) for story in stories}
    found = [
        f"run {run} of {tenant} was acknowledged and is gone"
        for tenant, run in acknowledged
        if (tenant, run) not in there
    ]
    lines: dict[str, list[Line]] = defaultdict(list)
    for line in ledger:
        if line["kind"] == "call":
            lines[str(line["run"])].append(line)
    found += [
        f"run {run} has side effects and is not in the journal"
        for run in lines.keys() - {s.run for s in stories}
    ]
    tenants = {story.tenant for story in stories}
    for story in stories:
        own = lines[story.run]
        if zombies:
            own = [line for line in own if not _is_of_a_zombie(story, line)]
        wrong = [*_unfinished(story), *of_events(story.events), *_of_calls(story, own, in_flight)]
        wrong += [*_after_the_end(story, own), *_of_others(story, own, tenants - {story.tenant})]
        found += [f"run {story.run} of {story.tenant}: {what}" for what in wrong]
    return found


def _unfinished(story: Story) -> list[str]:
    found = []
    if story.status not in TERMINAL_STATUSES:
        found.append(f"it did not end, it is {story.status}")
    open_steps = [key for key, state in story.steps if state in ("started", "waiting")]
    if open_steps:
        found.append(f"its steps {open_steps} are still at work")
    if any(story.held.values()):
        found.append(f"it still holds {dict(story.held)}")
    if story.used != story.called:
        found.append(f"it has used {dict(story.used)}, its calls {dict(story.called)}")
    done = {key for key, state in story.steps if state == "done"}
    told = {step for _, kind, step in story.events if kind == "step_done"}
    if not told <= done:
        found.append(f"steps {sorted(map(str, told - done))} were told to be done and are not")
    return found


def _of_calls(story: Story, lines: Sequence[Line], in_flight: Sequence[Request] | None) -> list[str]:
    found = []
    known = {call.request: call for call in story.calls}
    made = Counter(request_of(line) for line in lines)
    for request, times in made.items():
        call = known.get(request)
        if call is None:
            found.append(f"a call of step {request[1]} was made and is not journaled")
            continue
        late = [line for line in lines if request_of(line) == request and _is_late(line, call)]
        if late:
            found.append(f"{call.name} of step {request[1]} was made again after its outcome was committed")
        allowed = 1 if not call.idempotent else times if in_flight is None else 1 + in_flight.count(request)
        if times > allowed:
            found.append(f"{call.name} of step {request[1]} was made {times} times, {allowed} are allowed")
    for call in story.calls:
        if call.state == "intent":
            found.append(f"{call.name} of step {call.request[1]} is still open")
        if call.state == "done" and not call.failed and not made[call.request]:
            found.append(f"{call.name} of step {call.request[1]} has an outcome and was never made")
    return found


def _is_late(line: Line, call: Call) -> bool:
    return call.finished_at is not None and float(line["at"]) > call.finished_at


def _is_of_a_zombie(story: Story, line: Line) -> bool:
    """Made under a claim that was over: another had begun the call anew, or the run was cancelled."""
    call = next((call for call in story.calls if call.request == request_of(line)), None)
    if call is not None and line["epoch"] < call.epoch and line["at"] > call.begun_at:
        return True
    return bool(story.cancelled_at and line["epoch"] < story.epoch and line["at"] > story.cancelled_at)


def _after_the_end(story: Story, lines: Sequence[Line]) -> list[str]:
    at = story.cancelled_at
    late = [line for line in lines if at is not None and float(line["at"]) > at]
    return [f"{line['name']} of step {line['step']} was made after the cancel" for line in late]


def _of_others(story: Story, lines: Sequence[Line], others: Iterable[str]) -> list[str]:
    found = [
        f"it worked for {line['tenant']}"
        for line in lines
        if line.get("tenant", story.tenant) != story.tenant
    ]
    return found + [
        f"it has words of {other}" for other in others if any(other in text for text in story.texts)
    ]


def _story(connection: Connection, run: Row[Any]) -> Story:
    def rows(table: Any, order: Any) -> Sequence[Row[Any]]:
        own = (table.c.tenant == run.tenant, table.c.run_id == run.id)
        return connection.execute(select(table).where(*own).order_by(order)).all()

    its_events, its_steps = rows(events, events.c.seq), rows(steps, steps.c.number)
    its_calls, its_input = rows(calls, calls.c.number), rows(run_inputs, run_inputs.c.run_id)
    counted = ("model_calls", "tool_calls", "input_tokens", "output_tokens")
    ends = [event for event in its_events if event.type == "run_cancelled"]
    # Without the columns that say whose it is: what is left are the words.
    content = (row._mapping for row in (run, *its_input, *its_steps, *its_events, *its_calls))
    texts = [dumps({k: v for k, v in row.items() if k not in ("tenant", "owner")}) for row in content]
    return Story(
        run=run.id,
        tenant=run.tenant,
        status=run.status,
        epoch=run.epoch,
        held={name: run._mapping[name] for name in ("open_calls", *RESERVED_FIELDS)},
        used={name: run._mapping[name] for name in counted},
        steps=[(step.key, step.state) for step in its_steps],
        events=[(event.seq, event.type, event.step) for event in its_events],
        cancelled_at=ends[-1].at if ends and run.status == "interrupted" else None,
        calls=[_call(row) for row in its_calls],
        called={name: sum(row._mapping[name] for row in its_calls) for name in counted},
        texts=texts,
    )


def _call(row: Row[Any]) -> Call:
    request = (row.run_id, row.step, row.request_hash)
    failed = row.error is not None
    own = (row.idempotent, row.state, failed, row.epoch, row.begun_at, row.finished_at)
    return Call(request, row.name, *own)
