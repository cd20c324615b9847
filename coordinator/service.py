"""The coordinator without Ray: accepts runs, keeps one executor per live run, answers about all of them."""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jsonschema

from coordinator.executor import RunExecutor
from coordinator.store.journal import Journal
from coordinator.store.records import TERMINAL_STATUSES, NewRun, RunRecord, StepRecord
from coordinator.watch import Watchers
from manta.clock import Clock
from manta.errors import (
    Conflict,
    CoordinatorUnavailable,
    InvalidInput,
    MantaError,
    NotFound,
    StaleEpoch,
    StepError,
    StorageUnavailable,
)
from manta.events import TERMINAL_EVENTS, Event
from manta.faults import reach
from manta.graph import Graph, Names, check_names
from manta.ids import RunId, Tenant, new_run_id
from manta.messages import CallIntent, CallOutcome, RecordedCall, to_json
from manta.protocols import AgentRuntime
from manta.telemetry import get_logger

OPEN_RETRY_S = 1.0
ELSEWHERE_S = 0.5
NO_CURSOR = 1 << 60
"""A cursor that no token is newer than."""

logger = get_logger("coordinator")


@dataclass(frozen=True, slots=True)
class Submission:
    """What a caller asks for. `timeout_s` becomes the run's deadline."""

    graph: str
    input: Any
    tenant: Tenant
    principal: str = "local"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None
    timeout_s: float | None = None

    def fingerprint(self) -> str:
        """Equal for equal requests: what an idempotency key is checked against."""
        content = [self.graph, to_json(self.input), to_json(self.metadata)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Watch:
    """An answer to a watcher: what is new, and the cursor to ask with next. `over`: nothing more will come."""

    events: tuple[Event, ...]
    cursor: int
    over: bool


class CoordinatorService:
    """One per journal owner. Nothing here may fail at construction; `start` is called again until it works."""

    def __init__(
        self,
        journal_url: str,
        runtime: AgentRuntime,
        graphs: Mapping[str, Graph],
        names: Names,
        clock: Clock,
        owner: str,
    ) -> None:
        self._url = journal_url
        self._runtime = runtime
        self._graphs = dict(graphs)
        self._names = names
        self._clock = clock
        self._owner = owner
        self._journal: Journal | None = None
        self._watchers = Watchers()
        self._live: dict[RunId, RunExecutor] = {}
        self._jobs: dict[RunId, asyncio.Task[None]] = {}
        self._trouble = ""
        self._starting: asyncio.Task[None] | None = None

    @property
    def journal(self) -> Journal:
        if self._journal is None:
            raise CoordinatorUnavailable(
                "the coordinator is still opening its journal", fix="try again in a moment"
            )
        return self._journal

    def ensure_started(self) -> None:
        """Open the journal and take up unfinished runs, in the background, until it works."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())

    async def started(self) -> None:
        self.ensure_started()
        assert self._starting is not None
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        while True:
            try:
                if self._journal is None:
                    self._journal = await Journal.open(self._url, self._clock)
                unfinished = await self._journal.unfinished()
                break
            except MantaError as error:
                self._trouble = str(error)
                logger.warning("%s; trying again", error)
                await self._clock.sleep(OPEN_RETRY_S)
        self._trouble = ""
        for record in unfinished:
            logger.info("taking up run %s", record.id)
            self._launch(record)

    async def close(self) -> None:
        jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        if self._journal is not None:
            await self._journal.close()

    def health(self) -> dict[str, Any]:
        started = self._starting is not None and self._starting.done()
        return {"journal": started, "trouble": self._trouble, "live_runs": len(self._jobs)}

    def graphs(self) -> list[Graph]:
        return list(self._graphs.values())

    async def submit(self, submission: Submission) -> RunRecord:
        """Accept a run: it is durable when this returns.

        Raises:
            NotFound: no such graph. InvalidInput: the input does not fit the graph's schema.
            IdempotencyConflict: the key was used with another body.
        """
        graph = self._graphs.get(submission.graph)
        if graph is None:
            there = ", ".join(sorted(self._graphs))
            raise NotFound(
                f"there is no graph {submission.graph!r}", fix=f"one of: {there}", code="unknown_graph"
            )
        check_names(graph, self._names)
        _check_input(graph, submission.input)
        now = self._clock.now()
        new = NewRun(
            id=new_run_id(),
            tenant=submission.tenant,
            principal=submission.principal,
            graph_name=graph.name,
            graph_version=graph.version,
            graph=graph.model_dump(mode="json"),
            input=submission.input,
            metadata=dict(submission.metadata),
            idempotency_key=submission.idempotency_key,
            body_hash=submission.fingerprint(),
            deadline=None if submission.timeout_s is None else now + submission.timeout_s,
        )
        record, _ = await self.journal.create_run(new)
        reach("coordinator.run_created")
        # Also one that was there: its creation may have been answered with an error although it was written.
        if record.status == "pending":
            self._launch(record)
        return record

    def _launch(self, record: RunRecord) -> None:
        run = RunId(record.id)
        if run in self._jobs:
            return
        self._watchers.open(run)
        job = asyncio.create_task(self._execute(record), name=f"run {run}")
        self._jobs[run] = job
        job.add_done_callback(lambda _: self._forget(run))

    def _forget(self, run: RunId) -> None:
        self._jobs.pop(run, None)
        self._live.pop(run, None)
        self._watchers.close(run)

    async def _execute(self, record: RunRecord) -> None:
        """Drive a run until it is over, or another coordinator has it."""
        while True:
            try:
                claimed = await self.journal.claim(record.id, self._owner)
                await self._drive(claimed)
                return
            except StorageUnavailable as error:
                # The run is unfinished in the journal; it is claimed anew once the journal can be written.
                logger.error("run %s waits for its journal: %s", record.id, error)
                await self._clock.sleep(OPEN_RETRY_S)
            except (StaleEpoch, Conflict) as error:
                logger.warning("run %s is no longer ours: %s", record.id, error)
                return

    async def _drive(self, claimed: RunRecord) -> None:
        run = RunId(claimed.id)
        executor = RunExecutor(claimed, self.journal, self._runtime, self._watchers, self._clock)
        self._live[run] = executor
        try:
            await executor.execute()
        except (StorageUnavailable, StaleEpoch, Conflict):
            raise
        except Exception as error:
            # A run must end, whatever went wrong: one that is left running would fail alike at every restart.
            logger.exception("run %s stopped by a defect", run)
            known = error if isinstance(error, MantaError) else StepError(f"{type(error).__name__}: {error}")
            await executor.fail(known)

    async def get(self, tenant: Tenant, run: RunId) -> tuple[RunRecord, list[StepRecord]]:
        record = await self.journal.get_run(tenant, run)
        return record, await self.journal.steps(run)

    async def search(self, tenant: Tenant, **filters: Any) -> list[RunRecord]:
        return await self.journal.list_runs(tenant, **filters)

    async def cancel(self, tenant: Tenant, run: RunId) -> RunRecord:
        """Durable first, then carried down to every running step; done twice it is the same.

        Raises:
            NotFound: no such run.
            Conflict: it is over, and not by a cancel.
        """
        try:
            record = await self.journal.request_cancel(tenant, run)
        except Conflict:
            record = await self.journal.get_run(tenant, run)
            # The answer to an earlier cancel may have been lost on its way.
            if record.cancel_requested and record.status == "interrupted":
                return record
            raise
        executor = self._live.get(run)
        if executor is not None:
            executor.cancel()
        return record

    async def wait(self, tenant: Tenant, run: RunId, timeout_s: float) -> RunRecord:
        """The run once it is over, or as it is after the timeout."""
        deadline = self._clock.monotonic() + timeout_s
        while True:
            status, seq = await self.journal.run_state(tenant, run)
            left = deadline - self._clock.monotonic()
            if status in TERMINAL_STATUSES or left <= 0:
                return await self.journal.get_run(tenant, run)
            await self._changed(run, seq, NO_CURSOR, left)

    async def watch(self, tenant: Tenant, run: RunId, after: int, cursor: int, timeout_s: float) -> Watch:
        """Durable events after `after` and transient ones after `cursor`; waits up to `timeout_s` for the first."""
        status, _ = await self.journal.run_state(tenant, run)
        events, cursor, over = await self._news(run, after, cursor)
        if not events and not over and status not in TERMINAL_STATUSES:
            await self._changed(run, after, cursor, timeout_s)
            events, cursor, over = await self._news(run, after, cursor)
        over = over or (not events and status in TERMINAL_STATUSES)
        return Watch(tuple(events), cursor, over)

    async def _changed(self, run: RunId, seq: int, cursor: int, timeout_s: float) -> None:
        """Until something may be new. A run that is driven elsewhere is looked at again after a while."""
        if self._watchers.is_open(run):
            await self._watchers.wait(run, seq, cursor, timeout_s)
        else:
            await self._clock.sleep(min(timeout_s, ELSEWHERE_S))

    async def _news(self, run: RunId, after: int, cursor: int) -> tuple[list[Event], int, bool]:
        # The ring first: a token that comes in between is then shown late, not before its step began.
        transient, cursor = self._watchers.transient(run, cursor)
        durable = await self.journal.events(run, after)
        over = any(event.type in TERMINAL_EVENTS for event in durable)
        return [*_before_end(durable), *transient, *_end(durable)], cursor, over

    def pass_on(self, events: Sequence[Event]) -> None:
        for event in events:
            self._watchers.pass_on(event)

    async def begin_call(self, intent: CallIntent) -> RecordedCall | None:
        recorded = await self.journal.begin_call(intent)
        reach("journal.intent_committed")
        return recorded

    async def finish_call(self, outcome: CallOutcome) -> None:
        await self.journal.finish_call(outcome)
        reach("journal.outcome_committed")


def _before_end(events: Sequence[Event]) -> list[Event]:
    return [event for event in events if event.type not in TERMINAL_EVENTS]


def _end(events: Sequence[Event]) -> list[Event]:
    return [event for event in events if event.type in TERMINAL_EVENTS]


def _check_input(graph: Graph, value: Any) -> None:
    if not graph.input_schema:
        return
    error = next(iter(jsonschema.Draft202012Validator(graph.input_schema).iter_errors(value)), None)
    if error is not None:
        where = ".".join(str(part) for part in error.absolute_path) or "input"
        raise InvalidInput(f"{where}: {error.message[:300]}", fix=f"see GET /agents/{graph.name}/schemas")
