"""The coordinator without Ray: accepts runs, answers about all of them, and hands those that can go to `LiveRuns`."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from coordinator.alarms import Alarms
from coordinator.chores import Chores
from coordinator.forks import Fork, fork_of, kept, tolerated
from coordinator.live_runs import OPEN_RETRY_S, LiveRuns
from coordinator.news import News, Watch
from coordinator.store.journal import Journal
from coordinator.store.records import (
    DecisionAction,
    NewRun,
    RunRecord,
    StepRecord,
)
from coordinator.submission import Submission, brief_of, check_input
from coordinator.vigil import Vigil
from coordinator.watch import Watchers
from coordinator.webhook_post import check_url
from coordinator.works import Surroundings
from manta.clock import Clock
from manta.config import CoordinatorSettings, LimitSettings, WebhookSettings
from manta.errors import (
    Conflict,
    CoordinatorUnavailable,
    InvalidInput,
    MantaError,
    NotFound,
    Overloaded,
    Unavailable,
)
from manta.events import Event
from manta.faults import reach
from manta.graph import Graph, Names, check_names
from manta.ids import RunId, StepKey, Tenant, new_run_id
from manta.messages import Budget, CallIntent, CallOutcome, RecordedCall, to_json
from manta.protocols import AgentRuntime
from manta.telemetry import get_logger

LIBRARY = ("threads", "items", "schedules", "feedback", "keys", "models")
"""Rooms of the journal whose methods callers use as they are."""

logger = get_logger("coordinator")


Describe: TypeAlias = Callable[[RunRecord, Sequence[StepRecord]], dict[str, Any]]


class CoordinatorService:
    """Nothing here may fail at construction; opening the journal is tried again until it works.

    `name` is stable over restarts: a coordinator takes up at once what it drove before. `describe` is how a
    webhook tells of a run.
    """

    def __init__(
        self,
        journal_url: str,
        runtime: AgentRuntime,
        graphs: Mapping[str, Graph],
        names: Names,
        clock: Clock,
        name: str,
        *,
        limits: LimitSettings | None = None,
        settings: CoordinatorSettings | None = None,
        webhooks: WebhookSettings | None = None,
        describe: Describe | None = None,
    ) -> None:
        self._url = journal_url
        self._runtime = runtime
        self._graphs = dict(graphs)
        self._names = names
        self._clock = clock
        self._name = name
        self._limits = limits or LimitSettings()
        self._settings = settings or CoordinatorSettings()
        self._webhooks = webhooks or WebhookSettings()
        self._describe = describe or _plain
        self._watchers = Watchers()
        self._alarms = Alarms(clock)
        self._journal: Journal | None = None
        self._live: LiveRuns | None = None
        self._trouble = ""
        self._starting: asyncio.Task[None] | None = None
        self._vigil: asyncio.Task[None] | None = None
        self._chores: Chores | None = None
        self._draining = False

    @property
    def journal(self) -> Journal:
        if self._journal is None:
            raise CoordinatorUnavailable(
                "the coordinator is still opening its journal", fix="try again in a moment"
            )
        return self._journal

    @property
    def live(self) -> LiveRuns:
        if self._live is None:
            raise CoordinatorUnavailable("the coordinator is still starting", fix="try again in a moment")
        return self._live

    def ensure_started(self) -> None:
        """Open the journal and take up unfinished runs, in the background, until it works."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._start(), name="coordinator start")

    async def started(self) -> None:
        self.ensure_started()
        assert self._starting is not None
        if not self._starting.done():
            await asyncio.shield(self._starting)

    async def _start(self) -> None:
        while True:
            try:
                if self._journal is None:
                    self._journal = await Journal.open(self._url, self._clock)
                await self._take_up(self._journal)
                break
            except MantaError as error:
                self._trouble = str(error)
                logger.warning("%s; trying again", error)
                await self._clock.sleep(OPEN_RETRY_S)
        self._trouble = ""

    async def _take_up(self, journal: Journal) -> None:
        around = Surroundings(journal, self._runtime, self._watchers, self._clock, self._alarms, self._name)
        await journal.renew(self._name, self._clock.now() + self._settings.lease_s)
        chores = Chores(journal, self.submit, self._webhook_body, self._webhooks, self._clock)

        def ended(run: RunId) -> None:
            self._watchers.close(run)
            chores.run_ended()

        live = LiveRuns(around, self._limits, ended)
        vigil = Vigil(journal, live, self._clock, self._name, self._settings.lease_s)
        try:
            await vigil.look_at_all()
        except MantaError:
            # It is tried again from the start; what has begun must not be driven twice.
            await live.close()
            raise
        self._live = live
        self._vigil = asyncio.create_task(vigil.keep(), name="vigil")
        self._chores = chores
        chores.start()

    async def _webhook_body(self, tenant: Tenant, run: RunId) -> Any:
        return self._describe(*await self.get(tenant, run))

    async def drain(self, grace_s: float = 30.0) -> None:
        """Accept and start nothing more, let what is at work end, and leave the rest to other coordinators."""
        self._draining = True
        await self.live.drain(grace_s)
        await self.journal.release(self._name)

    async def close(self) -> None:
        if self._vigil is not None:
            self._vigil.cancel()
        if self._chores is not None:
            await self._chores.close()
        if self._live is not None:
            await self._live.close()
        self._alarms.close()
        if self._journal is not None:
            await self._journal.close()

    def health(self) -> dict[str, Any]:
        started = self._starting is not None and self._starting.done()
        counts = self._live.counts if self._live is not None else {"active": 0, "queued": 0}
        flushes = self._journal.flushes if self._journal is not None else 0
        return {
            "journal": started,
            "trouble": self._trouble,
            "draining": self._draining,
            "flushes": flushes,
            **counts,
        }

    def graphs(self) -> list[Graph]:
        return list(self._graphs.values())

    async def submit(self, submission: Submission) -> RunRecord:
        """Accept a run: it is durable when this returns.

        Raises:
            NotFound: no such graph or thread. InvalidInput: the input does not fit the graph's schema.
            IdempotencyConflict: the key was used with another body. Conflict: the thread is busy.
            Overloaded: too many runs wait. Unavailable: the coordinator is being stopped.
        """
        graph = self._graph(submission.graph)
        check_names(graph, self._names)
        check_input(graph, submission.input)
        if submission.webhook is not None:
            check_url(submission.webhook)
        new = submission.new_run(new_run_id(), graph, self._clock.now())
        return await self._create(new)

    def _graph(self, name: str) -> Graph:
        graph = self._graphs.get(name)
        if graph is None:
            there = ", ".join(sorted(self._graphs))
            raise NotFound(f"there is no graph {name!r}", fix=f"one of: {there}", code="unknown_graph")
        return graph

    async def _create(self, new: NewRun) -> RunRecord:
        if self._draining:
            raise Unavailable("the coordinator is being stopped", fix="send it again", code="draining")
        if self.live.overloaded:
            raise Overloaded(f"{self._limits.queued_runs} runs wait already", fix="send it again later")
        brief = brief_of(new)
        at_once = self.live.reserve(brief)
        try:
            record, created = await self.journal.create_run(new, self._name if at_once else None)
        except BaseException:
            if at_once:
                self.live.give_up(new.id)
            raise
        reach("coordinator.run_created" if record.status == "running" else "coordinator.run_queued")
        if at_once and created and record.status == "running":
            self.live.start(brief, record)
            return record
        if at_once:
            # It was there already, or its thread is busy elsewhere.
            self.live.give_up(new.id)
        # Also one that was there: its creation may have been answered with an error although it was written.
        if record.status == "pending":
            self.live.offer(brief_of(record))
        return record

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
        reach("coordinator.cancel_requested")
        executor = self.live.executor(run)
        if executor is not None:
            executor.cancel()
        elif record.status in ("pending", "waiting"):
            self.live.end_cancelled(brief_of(record))
        return record

    async def delete(self, tenant: Tenant, run: RunId) -> None:
        """Raises NotFound, or Conflict (`run_active`) for a run that is not over."""
        await self.journal.delete_run(tenant, run)

    async def decide(
        self,
        tenant: Tenant,
        run: RunId,
        step: StepKey | None,
        action: DecisionAction,
        value: Any = None,
        comment: str = "",
        by: str = "",
        key: str | None = None,
    ) -> RunRecord:
        """A person's answer to a step that waits (None: the only one); durable, then acted on.

        A `key`, the caller's for this very answer, makes a repeated call the same as the first.

        Raises:
            NotFound: no such run.
            Conflict: nothing waits there, several do, or it was decided otherwise.
            InvalidInput: the action does not fit what the step waits for.
            IdempotencyConflict: the key came with another answer.
        """
        record = await self.journal.decide(tenant, run, step, action, value, comment, by, key)
        reach("coordinator.decided")
        executor = self.live.executor(run)
        if executor is not None:
            executor.decided()
        elif record.status == "pending":
            self.live.offer(brief_of(record))
        return record

    async def fork(self, tenant: Tenant, run: RunId, asked: Fork) -> RunRecord:
        """A new run that keeps what does not follow from a step, and goes on from there.

        Raises:
            NotFound: no such run, or it has no such step execution.
        """
        record, steps = await self.get(tenant, run)
        graph = self.live.graph(record)
        copied = kept(record, graph, steps, asked.step)
        made = await self._create(fork_of(record, graph, copied, asked, self._clock.now()))
        reach("coordinator.forked")
        return made

    async def resume(
        self, tenant: Tenant, run: RunId, budget: Budget | None, key: str | None = None
    ) -> RunRecord:
        """Open a run that failed or was stopped again: failed steps run anew, `budget` replaces the run's.

        A run that was resumed under the same `key` before is given as it is.

        Raises:
            NotFound: no such run.
            Conflict: it is not over, or it ended well.
            IdempotencyConflict: the key came with another budget.
        """
        record, steps = await self.get(tenant, run)
        graph = self.live.graph(record)
        record = await self.journal.reopen(tenant, run, budget, tolerated(record, graph, steps), key)
        reach("coordinator.reopened")
        if record.status == "pending":
            self.live.offer(brief_of(record))
        return record

    async def library(self, room: str, method: str, *arguments: Any) -> Any:
        """A method of one of the journal's rooms beside runs; the first argument is the tenant, but for `keys` and
        `models`.

        Raises:
            InvalidInput: there is no such room or method.
        """
        call = None if method.startswith("_") or room not in LIBRARY else getattr(self.journal, room)
        call = getattr(call, method, None)
        if call is None:
            raise InvalidInput(f"there is no {room}.{method}", fix="see `coordinator.store`")
        return await call(*arguments)

    async def calls(self, tenant: Tenant, run: RunId, whole: bool) -> list[Any]:
        """The run's recorded calls, with requests and responses if `whole`. Raises NotFound."""
        await self.journal.run_state(tenant, run)
        return await self.journal.calls(run, whole=whole)

    async def wait(self, tenant: Tenant, run: RunId, timeout_s: float) -> RunRecord:
        """The run once it is over or waits for a person, or as it is after the timeout."""
        return await self._news().wait(tenant, run, timeout_s)

    async def watch(self, tenant: Tenant, run: RunId, after: int, cursor: int, timeout_s: float) -> Watch:
        """See `News.watch`."""
        return await self._news().watch(tenant, run, after, cursor, timeout_s)

    def _news(self) -> News:
        return News(self.journal, self._watchers, self._clock)

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


def _plain(record: RunRecord, steps: Sequence[StepRecord]) -> dict[str, Any]:
    return {**to_json(record), "steps": to_json(list(steps))}
