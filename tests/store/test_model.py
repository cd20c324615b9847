"""Whatever order the operations come in, the journal says what plain objects would."""

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from coordinator.store.journal import Journal
from coordinator.store.records import TERMINAL_STATUSES, DecisionTaken, EventDraft, RunChange, StepChange
from manta.clock import ManualClock
from manta.errors import Conflict, IdempotencyConflict, NotFound, ToolError
from manta.ids import StepKey, Tenant
from manta.messages import Budget, CallScope, Limit, Usage
from tests.store.model import ModelRun, Refusal
from tests.store.support import STEP, a_run, blank_journal, held, intent, outcome, started

TENANTS = st.sampled_from([Tenant("acme"), Tenant("globex")])
OWNERS = st.sampled_from(["a", "b"])
LATE = st.sampled_from([0, 0, 0, 1])
LIMIT = 30
HOUR_S = 3600.0
WRONG = ToolError("no").to_json()


class JournalMachine(RuleBasedStateMachine):
    """Stale epochs, old attempts, foreign tenants and living owners are tried as often as the right ones."""

    runs = Bundle("runs")
    over = Bundle("over")

    @initialize()
    def open(self) -> None:
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = ManualClock()
        self.model: dict[str, ModelRun] = {}
        self.keys: dict[tuple[str, str], tuple[str, str]] = {}
        self.leases: dict[str, float] = {}
        self.url = blank_journal(Path(self.folder.name) / "journal.db")
        self.journal = self.await_(Journal.open(self.url, self.clock))

    def await_(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def expect(self, work: Coroutine[Any, Any, Any], error: Refusal) -> Any:
        if error is None:
            return self.await_(work)
        with pytest.raises(error) as raised:
            self.await_(work)
        assert type(raised.value) is error
        return None

    def alive(self, owner: str | None) -> bool:
        return self.leases.get(owner or "", float("-inf")) > self.clock.now()

    # Runs

    @rule(
        target=runs,
        tenant=TENANTS,
        key=st.sampled_from([None, "a", "b"]),
        body=st.sampled_from("xy"),
        owner=st.sampled_from([None, "a", "b"]),
    )
    def create(self, tenant: Tenant, key: str | None, body: str, owner: str | None) -> Any:
        new = a_run(tenant=tenant, idempotency_key=key, body_hash=body)
        known = self.keys.get((tenant, key)) if key else None
        conflict = known is not None and known[1] != body
        result = self.expect(self.journal.create_run(new, owner), IdempotencyConflict if conflict else None)
        if conflict:
            return multiple()
        assert (result[0].id, result[1]) == ((known[0], False) if known else (new.id, True))
        if known:
            return multiple()
        if key:
            self.keys[tenant, key] = (new.id, body)
        self.model[new.id] = ModelRun(tenant)
        if owner is not None:
            self.model[new.id].claim(owner)
        return new.id

    @rule(run=runs, owner=OWNERS)
    def claim(self, run: Any, owner: str) -> None:
        model = self.model[run]
        error = model.claim_error(owner, self.alive(model.owner))
        if self.expect(self.journal.claim(run, owner), error) is not None:
            model.claim(owner)

    @rule(owner=OWNERS)
    def renew(self, owner: str) -> None:
        until = self.clock.now() + 10
        self.await_(self.journal.renew(owner, until))
        # One that ends later was written before the clock was set back.
        self.leases = {name: min(end, until) for name, end in self.leases.items()} | {owner: until}

    @rule(owner=OWNERS)
    def release(self, owner: str) -> None:
        self.leases.pop(owner, None)
        mine = [m for m in self.model.values() if m.owner == owner and m.status == "running"]
        assert self.await_(self.journal.release(owner)) == len(mine)
        for model in mine:
            model.owner = None

    @rule(seconds=st.sampled_from([1.0, 9.0, 60.0, HOUR_S, -HOUR_S]))
    def pass_time(self, seconds: float) -> None:
        self.await_(self.clock.advance(seconds))

    @rule(run=runs, tenant=TENANTS)
    def cancel(self, run: Any, tenant: Tenant) -> None:
        model = self.model[run]
        error = NotFound if tenant != model.tenant else Conflict if model.finished else None
        if self.expect(self.journal.request_cancel(tenant, run), error) is not None:
            model.cancel()

    @rule(target=over, run=consumes(runs), status=st.sampled_from(sorted(TERMINAL_STATUSES)))
    def finish(self, run: Any, status: Any) -> Any:
        model = self.model[run]
        error = model.commit_error(model.epoch)
        if self.expect(self.journal.commit(run, model.epoch, [RunChange(status)]), error) is not None:
            model.status = status
        return run

    @rule(target=runs, run=consumes(over))
    def reopen(self, run: Any) -> Any:
        model = self.model[run]
        error = None if model.finished and model.status != "success" else Conflict
        if self.expect(self.journal.reopen(Tenant(model.tenant), run), error) is not None:
            model.reopen()
        return run

    @rule(run=consumes(over))
    def delete(self, run: Any) -> None:
        model = self.model[run]
        self.expect(self.journal.delete_run(Tenant(model.tenant), run), None if model.finished else Conflict)
        if model.finished:
            del self.model[run]
            self.keys = {key: known for key, known in self.keys.items() if known[0] != run}

    # Commits

    @rule(run=runs, late=LATE, count=st.integers(1, 3))
    def note(self, run: Any, late: int, count: int) -> None:
        model = self.model[run]
        epoch = model.epoch - late
        drafts = [EventDraft("call_done", STEP, {"n": n}) for n in range(count)]
        written = self.expect(self.journal.commit(run, epoch, drafts), model.commit_error(epoch))
        if written is not None:
            assert [event.seq for event in written] == list(range(model.seq + 1, model.seq + count + 1))
            model.seq += count

    @rule(run=runs, late=LATE, step_by=st.sampled_from([1, 1, 0, -1]))
    def start(self, run: Any, late: int, step_by: int) -> None:
        model = self.model[run]
        self.change_step(run, started(attempt=model.attempt + step_by), late)

    @rule(run=runs, late=LATE, state=st.sampled_from(["done", "failed"]))
    def end_step(self, run: Any, late: int, state: Any) -> None:
        attempt = self.model[run].attempt or 1
        self.change_step(run, StepChange(STEP, "plan", None, state, attempt), late)

    @rule(run=runs, late=LATE, reason=st.sampled_from(["approval", "outcome_unknown"]))
    def hold(self, run: Any, late: int, reason: str) -> None:
        self.change_step(run, held(attempt=self.model[run].attempt or 1, reason=reason), late)

    def change_step(self, run: Any, change: StepChange, late: int) -> None:
        model = self.model[run]
        epoch = model.epoch - late
        error = model.step_error(epoch, change.attempt)
        if self.expect(self.journal.commit(run, epoch, [change]), error) is not None:
            model.change_step(change.state, change.attempt, (change.waiting or {}).get("reason", ""))

    @rule(run=runs, wake_in=st.sampled_from([None, 30.0]))
    def park(self, run: Any, wake_in: float | None) -> None:
        model = self.model[run]
        wake_at = None if wake_in is None else self.clock.now() + wake_in
        change = RunChange("waiting", wake_at=wake_at)
        if (
            self.expect(self.journal.commit(run, model.epoch, [change]), model.commit_error(model.epoch))
            == []
        ):
            model.park(wake_at)

    # Decisions

    @rule(run=runs, named=st.booleans(), action=st.sampled_from(["approve", "reject", "retry"]))
    def decide(self, run: Any, named: bool, action: Any) -> None:
        model = self.model[run]
        work = self.journal.decide(
            Tenant(model.tenant), run, STEP if named else None, action, None, "", "ann"
        )
        if self.expect(work, model.decide_error(action)) is not None:
            model.decide(action)

    @rule(run=runs)
    def act(self, run: Any) -> None:
        """The owner acts on what was decided: the step runs again."""
        model = self.model[run]
        taken = [DecisionTaken(number) for number in model.open_decisions]
        again = started(attempt=model.attempt + 1)
        error = model.step_error(model.epoch, again.attempt)
        if self.expect(self.journal.commit(run, model.epoch, [*taken, again]), error) is not None:
            model.change_step("started", again.attempt)

    # Calls

    @rule(
        run=runs,
        late=LATE,
        old=LATE,
        key=st.sampled_from("pq"),
        idempotent=st.booleans(),
        reserve=st.sampled_from([0, 4, 20]),
        tenant=st.sampled_from([None, None, None, "acme"]),
    )
    def begin_call(
        self, run: Any, late: int, old: int, key: str, idempotent: bool, reserve: int, tenant: str | None
    ) -> None:
        model = self.model[run]
        scope, error = self.scope_of(run, late, old, tenant)
        error = error or model.begin_error(key, idempotent, reserve, LIMIT)
        limits = (Limit(StepKey(""), Budget(tokens=LIMIT)), Limit(STEP, Budget(tokens=LIMIT)))
        asked = intent(scope, key, idempotent=idempotent, reserve=Usage(reserve), limits=limits)
        replayed = self.expect(self.journal.begin_call(asked), error)
        if error is not None:
            return
        if key in model.calls and model.calls[key].state == "done":
            assert replayed.state == "done"
        else:
            assert replayed is None
            model.begin_call(key, idempotent, reserve, scope.attempt)

    @rule(run=runs, late=LATE, key=st.sampled_from("pq"), tokens=st.integers(0, 9), failed=st.booleans())
    def finish_call(self, run: Any, late: int, key: str, tokens: int, failed: bool) -> None:
        model = self.model[run]
        scope, error = self.scope_of(run, late, 0, None)
        call = model.calls.get(key)
        if error is None and (call is None or call.state in ("unknown", "cleared")):
            error = Conflict
        ends = {"response": None, "error": WRONG} if failed else {}
        self.expect(self.journal.finish_call(outcome(scope, key, usage=Usage(tokens), **ends)), error)
        if error is None and call is not None and call.state == "intent":
            call.state, call.reserve, call.failed = "done", 0, failed
            call.usage += tokens

    def scope_of(self, run: Any, late: int, old: int, tenant: str | None) -> tuple[CallScope, Refusal]:
        model = self.model[run]
        epoch, attempt = model.epoch - late, model.attempt - old
        whose = Tenant(tenant or model.tenant)
        return CallScope(run, STEP, whose, attempt=attempt, epoch=epoch), model.call_error(
            epoch, attempt, whose
        )

    @rule()
    def restart(self) -> None:
        self.await_(self.journal.close())
        self.journal = self.await_(Journal.open(self.url, self.clock))

    # What has to hold

    @invariant()
    def every_run_agrees(self) -> None:
        for run, model in self.model.items():
            record = self.await_(self.journal.get_run(Tenant(model.tenant), run))
            assert (record.status, record.epoch, record.cancel_requested, record.takeovers) == (
                model.status,
                model.epoch,
                model.cancelled,
                model.takeovers,
            )
            assert model.finished or (record.owner, record.wake_at) == (model.owner, model.wake_at)
            events = self.await_(self.journal.events(run))
            assert [event.seq for event in events] == list(range(1, model.seq + 1))
            steps = self.await_(self.journal.steps(run))
            known = [] if model.step is None else [(model.step.state, model.step.attempt)]
            assert [(step.state, step.attempt) for step in steps] == known
            calls = self.await_(self.journal.calls(run))
            assert {c.call.key: c.call.state for c in calls} == {k: c.state for k, c in model.calls.items()}
            assert self.await_(self.journal.usage(run)).input_tokens == model.spent
            decisions = self.await_(self.journal.decisions(run))
            assert [d.number for d in decisions] == model.open_decisions

    @invariant()
    def what_is_to_be_done_is_found(self) -> None:
        open_ = {run: model for run, model in self.model.items() if not model.finished}
        counts = self.await_(self.journal.backlog())
        for status, count in counts.items():
            assert count == sum(model.status == status for model in open_.values())
        queued = self.await_(self.journal.queued(0, 100))
        assert [b.id for b in queued] == [run for run, m in open_.items() if m.status == "pending"]
        due = self.await_(self.journal.due(self.clock.now(), 100))
        late = [r for r, m in open_.items() if m.wake_at is not None and m.wake_at <= self.clock.now()]
        assert {b.id for b in due} == set(late)
        for owner in ("a", "b"):
            running = {run: model for run, model in open_.items() if model.status == "running"}
            free = [r for r, m in running.items() if m.owner == owner or not self.alive(m.owner)]
            assert [b.id for b in self.await_(self.journal.takeable(owner, 100))] == free
            wanted = [r for r, m in running.items() if m.owner == owner and (m.cancelled or m.open_decisions)]
            assert [flag.id for flag in self.await_(self.journal.flags(owner))] == wanted

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.await_(self.journal.close())
            self.runner.close()
            self.folder.cleanup()


JournalMachine.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestJournal = JournalMachine.TestCase
