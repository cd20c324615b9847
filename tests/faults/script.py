"""What the users of one tenant do, whatever happens to the coordinator meanwhile."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import create_engine, func, select, update
from sqlalchemy.exc import OperationalError

from coordinator.forks import Fork
from coordinator.store.engine import normalise_url
from coordinator.store.library_schema import schedules, webhooks
from coordinator.store.records import TERMINAL_STATUSES, RunRecord, StepRecord
from coordinator.submission import Submission
from manta.errors import Conflict, CoordinatorUnavailable, NotFound
from manta.faults import read_ledger
from manta.ids import RunId, StepKey, Tenant, ThreadId
from tests.faults import world
from tests.faults.oracle import request_of

THREAD = ThreadId("00000000-0000-4000-8000-00000000feed")
"""The same for every tenant."""
YEARLY = "0 0 1 1 *"
T = TypeVar("T")


class Door(Protocol):
    """The way to the coordinators; see `Survivor`."""

    async def call(self, method: str, *arguments: Any) -> Any: ...

    async def ask(self, method: str, *arguments: Any) -> Any: ...


@dataclass
class Visit:
    """One tenant's users. `runs`: what was acknowledged, by the name they gave it."""

    door: Door
    tenant: Tenant
    ledger: Path
    hook: str | None = None
    prefix: str = ""
    """Of their idempotency keys."""
    patience_s: float = 60.0
    """How long they wait for a run's end."""
    runs: dict[str, RunId] = field(default_factory=dict)

    async def submit(self, name: str, graph: str, value: Any, **more: Any) -> RunId:
        key = f"{self.prefix}{name}"
        submission = Submission(
            graph, value, self.tenant, idempotency_key=key, webhook=self.hook, metadata={"as": name}, **more
        )
        record: RunRecord = await self.door.call("submit", submission)
        assert self.runs.setdefault(name, record.id) == record.id, f"{key} became two runs"
        return record.id

    async def get(self, run: RunId) -> tuple[RunRecord, list[StepRecord]]:
        found: tuple[RunRecord, list[StepRecord]] = await self.door.call("get", self.tenant, run)
        return found

    async def end_of(self, run: RunId) -> RunRecord:
        """Waits for the run's end, and answers what it asks on the way."""
        deadline = time.monotonic() + self.patience_s
        while time.monotonic() < deadline:
            record: RunRecord = await self.door.call("wait", self.tenant, run, 5.0)
            if record.status in TERMINAL_STATUSES:
                return record
            if record.status == "waiting":
                await self._answer(run)
        raise TimeoutError(f"run {run} of {self.tenant} did not end in {self.patience_s:.0f} s")

    async def _answer(self, run: RunId) -> None:
        _, steps = await self.get(run)
        for step in steps:
            if step.state != "waiting" or step.waiting is None:
                continue
            action, value = "approve", None
            if step.waiting["reason"] == "outcome_unknown":
                action, value = await self._truth(run, step)
            try:
                await self.door.ask("decide", self.tenant, run, step.key, action, value, "", "someone")
            except (CoordinatorUnavailable, Conflict):
                # Whether it arrived is not known, or it is out of date: look again before answering anything.
                return

    async def _truth(self, run: RunId, step: StepRecord) -> tuple[str, Any]:
        """What a person finds who looks at the world: did the call take effect?"""
        assert step.waiting is not None
        calls = await self.door.call("calls", self.tenant, run, True)
        [call] = [c.call for c in calls if c.step == step.key and c.call.key == step.waiting["call"]]
        done = [
            line
            for line in read_ledger(self.ledger)
            if line["kind"] == "call" and request_of(line) == (run, step.key, call.request_hash)
        ]
        return ("resolve", done[0]["arguments"]) if done else ("retry", None)

    async def talk(self) -> None:
        """The long run, and a second one that queues for its thread."""
        own = world.topics(self.tenant)
        await self.door.call(
            "library", "threads", "create", self.tenant, THREAD, {"of": self.tenant}, "do_nothing"
        )
        asked = {"topics": own, "messages": [{"role": "user", "content": f"hello from {self.tenant}"}]}
        first = await self.submit("everything", "everything", asked, thread=THREAD)
        second = await self.submit("follow", "follow", {}, thread=THREAD)
        record = await self.end_of(first)
        assert (record.status, record.output) == ("success", world.expected(self.tenant)), record
        record = await self.end_of(second)
        assert (record.status, record.output) == ("success", f"say {own[0]}".upper()), record
        await self._fork(first)

    async def _fork(self, run: RunId) -> None:
        words = f"other words of {self.tenant}"
        asked = Fork(StepKey("say"), {"text": words}, idempotency_key=f"{self.prefix}fork")
        record: RunRecord = await self.door.call("fork", self.tenant, run, asked)
        assert self.runs.setdefault("fork", record.id) == record.id
        record = await self.end_of(record.id)
        assert (record.status, record.output) == ("success", world.expected(self.tenant, words)), record

    async def give_up(self) -> None:
        """A run that is cancelled when it is at work."""
        run = await self.submit("hang", "hang", {})
        while not self._noted("call", run=run):
            await asyncio.sleep(0.05)
            await self.door.call("get", self.tenant, run)
        await self.door.call("cancel", self.tenant, run)
        record = await self.end_of(run)
        assert (record.status, record.reason) == ("interrupted", "cancelled"), record

    async def mend(self) -> None:
        """A run that fails, and is resumed."""
        topic = world.topics(self.tenant)[0]
        run = await self.submit("broken", "broken", {"topic": topic})
        record = await self.end_of(run)
        if record.status != "success":
            assert (record.error or {}).get("code") == "not_found", record
            note_in(self.ledger, "mended", run=run)
            # Its answer may be lost, and then it is sent again under the same key.
            await self.door.call("resume", self.tenant, run, None, "mend")
            record = await self.end_of(run)
        assert (record.status, record.output) == ("success", "whole"), record

    async def everything(self, url: str) -> None:
        await asyncio.gather(self.talk(), self.give_up(), self.mend(), self.be_on_time(url))

    async def see_no_others(self, other: "Visit") -> None:
        """What another tenant has is not there for this one, by whatever way it asks."""
        for run in other.runs.values():
            for method, *more in (
                ("get",),
                ("cancel",),
                ("delete",),
                ("calls", False),
                ("watch", 0, -1, 0.0),
            ):
                try:
                    await self.door.call(method, self.tenant, run, *more)
                except NotFound:
                    continue
                raise AssertionError(f"{self.tenant} may {method} run {run} of {other.tenant}")
        found: Sequence[RunRecord] = await self.door.call("search", self.tenant, {"limit": 100})
        assert {record.id for record in found} >= set(self.runs.values())
        assert {record.tenant for record in found} == {self.tenant}

    async def be_on_time(self, url: str) -> None:
        """A schedule whose time came long ago."""
        there = await self.door.call("library", "schedules", "list", self.tenant)
        if not there:
            given = (self.tenant, "someone", "tick", {"topic": self.tenant}, YEARLY)
            await self.door.call("library", "schedules", "create", *given)
            there = await self.door.call("library", "schedules", "list", self.tenant)
        await patiently(_make_due, url, there[0].id)
        async with asyncio.timeout(60):
            while not (runs := await self._of_schedule(there[0].id)):
                await asyncio.sleep(0.05)
        record = await self.end_of(runs[0].id)
        assert (record.status, record.output) == ("success", self.tenant.upper()), record
        assert len(await self._of_schedule(there[0].id)) == 1

    async def _of_schedule(self, schedule: str) -> Sequence[RunRecord]:
        runs: Sequence[RunRecord] = await self.door.call(
            "search", self.tenant, {"metadata": {"schedule": schedule}, "limit": 10}
        )
        return runs

    def _noted(self, kind: str, **facts: Any) -> bool:
        lines = (line for line in read_ledger(self.ledger) if line["kind"] == kind)
        return any(all(line.get(name) == fact for name, fact in facts.items()) for line in lines)


def note_in(ledger: Path, kind: str, **facts: Any) -> None:
    """A line of the ledger from this process, whose environment names none."""
    with ledger.open("a") as file:
        file.write(json.dumps({"kind": kind, "at": time.time(), **facts}) + "\n")


async def patiently(look: Callable[..., T], *arguments: Any) -> T:
    """What a look into the database gives, in a thread; again while the server is away."""
    while True:
        try:
            return await asyncio.to_thread(look, *arguments)
        except OperationalError:
            await asyncio.sleep(0.2)


def _make_due(url: str, schedule: str) -> None:
    last = datetime(datetime.now(UTC).year, 1, 1, tzinfo=UTC).timestamp()
    engine = create_engine(normalise_url(url))
    with engine.begin() as connection:
        own = (schedules.c.id == schedule, schedules.c.last_run.is_(None))
        connection.execute(update(schedules).where(*own).values(next_at=last))
    engine.dispose()


def undelivered(url: str) -> int:
    """How many webhooks are still on their way."""
    engine = create_engine(normalise_url(url))
    try:
        with engine.connect() as connection:
            query = select(func.count()).select_from(webhooks).where(webhooks.c.next_at.is_not(None))
            return int(connection.execute(query).scalar_one())
    finally:
        engine.dispose()
