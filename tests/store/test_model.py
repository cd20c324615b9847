"""Whatever order the operations come in, the journal says what a dictionary would."""

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from coordinator.store import EventDraft, Journal, RunChange
from coordinator.store.records import TERMINAL_STATUSES
from manta.clock import ManualClock
from manta.errors import Conflict, IdempotencyConflict, MantaError, NotFound, OutcomeUnknown, StaleEpoch
from manta.ids import Tenant
from manta.messages import CallScope, Usage
from tests.store.support import STEP, a_run, intent, outcome, started

TENANTS = st.sampled_from([Tenant("acme"), Tenant("globex")])


@dataclass
class ModelCall:
    state: str
    idempotent: bool
    attempt: int
    usage: int = 0


@dataclass
class ModelRun:
    tenant: str
    status: str = "pending"
    epoch: int = 0
    cancelled: bool = False
    seq: int = 0
    attempt: int | None = None
    step_epoch: int = 0
    calls: dict[str, ModelCall] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.status in TERMINAL_STATUSES

    def give_up_calls(self, but_attempt: int | None = None) -> None:
        for call in self.calls.values():
            if call.state == "intent" and call.attempt != but_attempt:
                call.state = "unknown"


class JournalMachine(RuleBasedStateMachine):
    """Stale epochs, old attempts and foreign tenants are tried as often as the right ones."""

    runs = Bundle("runs")

    @initialize()
    def open(self) -> None:
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.model: dict[str, ModelRun] = {}
        self.keys: dict[tuple[str, str], tuple[str, str]] = {}
        self.journal = self.await_(self.opened())

    def opened(self) -> Coroutine[Any, Any, Journal]:
        return Journal.open(f"sqlite:///{Path(self.folder.name)}/journal.db", ManualClock())

    def await_(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def expect(self, work: Coroutine[Any, Any, Any], error: type[MantaError] | None) -> Any:
        if error is None:
            return self.await_(work)
        with pytest.raises(error) as raised:
            self.await_(work)
        assert type(raised.value) is error
        return None

    @rule(target=runs, tenant=TENANTS, key=st.sampled_from([None, "a", "b"]), body=st.sampled_from("xy"))
    def create(self, tenant: Tenant, key: str | None, body: str) -> Any:
        new = a_run(tenant=tenant, idempotency_key=key, body_hash=body)
        known = self.keys.get((tenant, key)) if key else None
        conflict = known is not None and known[1] != body
        result = self.expect(self.journal.create_run(new), IdempotencyConflict if conflict else None)
        if conflict:
            return multiple()
        assert (result[0].id, result[1]) == ((known[0], False) if known else (new.id, True))
        if known:
            return multiple()
        if key:
            self.keys[tenant, key] = (new.id, body)
        self.model[new.id] = ModelRun(tenant)
        return new.id

    @rule(run=runs)
    def claim(self, run: Any) -> None:
        model = self.model[run]
        record = self.expect(self.journal.claim(run, "me"), Conflict if model.finished else None)
        if record is not None:
            model.epoch, model.status = model.epoch + 1, "running"
            model.give_up_calls()
            assert record.epoch == model.epoch

    @rule(run=runs, tenant=TENANTS)
    def cancel(self, run: Any, tenant: Tenant) -> None:
        model = self.model[run]
        error = NotFound if tenant != model.tenant else Conflict if model.finished else None
        if self.expect(self.journal.request_cancel(tenant, run), error) is not None:
            model.cancelled = True

    def commit_error(self, model: ModelRun, epoch: int) -> type[MantaError] | None:
        if epoch < 1 or epoch != model.epoch:
            return StaleEpoch
        return Conflict if model.finished else None

    @rule(run=runs, late=st.sampled_from([0, 0, 0, 1]), count=st.integers(1, 3))
    def note(self, run: Any, late: int, count: int) -> None:
        model = self.model[run]
        epoch = model.epoch - late
        drafts = [EventDraft("call_done", STEP, {"n": n}) for n in range(count)]
        written = self.expect(self.journal.commit(run, epoch, drafts), self.commit_error(model, epoch))
        if written is not None:
            assert [event.seq for event in written] == list(range(model.seq + 1, model.seq + count + 1))
            model.seq += count

    @rule(run=runs, step_by=st.sampled_from([1, 1, 0, -1]))
    def start(self, run: Any, step_by: int) -> None:
        model = self.model[run]
        attempt = (model.attempt or 0) + step_by
        error = self.commit_error(model, model.epoch)
        if error is None and model.attempt is not None and step_by < 0 and model.step_epoch == model.epoch:
            error = StaleEpoch
        if self.expect(self.journal.commit(run, model.epoch, [started(attempt=attempt)]), error) is not None:
            model.attempt, model.step_epoch = attempt, model.epoch
            model.give_up_calls(but_attempt=attempt)

    @rule(run=consumes(runs), status=st.sampled_from(sorted(TERMINAL_STATUSES)))
    def finish(self, run: Any, status: Any) -> Any:
        model = self.model[run]
        error = self.commit_error(model, model.epoch)
        if self.expect(self.journal.commit(run, model.epoch, [RunChange(status)]), error) is not None:
            model.status = status

    def scope_of(self, run: Any, late: int, old: int) -> tuple[CallScope, type[MantaError] | None]:
        model = self.model[run]
        attempt = (model.attempt or 0) - old
        scope = CallScope(run, STEP, Tenant(model.tenant), attempt=attempt, epoch=model.epoch - late)
        at_work = model.epoch > 0 and not model.finished and model.attempt is not None
        return scope, None if at_work and not late and not old else StaleEpoch

    @rule(
        run=runs,
        late=st.sampled_from([0, 0, 0, 1]),
        old=st.sampled_from([0, 0, 0, 1]),
        key=st.sampled_from("pq"),
        idempotent=st.booleans(),
    )
    def begin_call(self, run: Any, late: int, old: int, key: str, idempotent: bool) -> None:
        model = self.model[run]
        scope, error = self.scope_of(run, late, old)
        call = model.calls.get(key)
        if error is None and call and call.state == "unknown" and not (call.idempotent and idempotent):
            error = OutcomeUnknown
        replayed = self.expect(self.journal.begin_call(intent(scope, key, idempotent=idempotent)), error)
        if error is None and call is not None and call.state == "done":
            assert replayed.state == "done"
        elif error is None:
            assert replayed is None
            model.calls[key] = ModelCall("intent", idempotent, scope.attempt)

    @rule(run=runs, late=st.sampled_from([0, 0, 0, 1]), key=st.sampled_from("pq"), tokens=st.integers(0, 9))
    def finish_call(self, run: Any, late: int, key: str, tokens: int) -> None:
        model = self.model[run]
        scope, error = self.scope_of(run, late, 0)
        call = model.calls.get(key)
        if error is None and (call is None or call.state == "unknown"):
            error = Conflict
        self.expect(self.journal.finish_call(outcome(scope, key, usage=Usage(tokens))), error)
        if error is None and call is not None and call.state == "intent":
            call.state, call.usage = "done", tokens

    @rule()
    def reopen(self) -> None:
        self.await_(self.journal.close())
        self.journal = self.await_(self.opened())

    @invariant()
    def agrees(self) -> None:
        for run, model in self.model.items():
            record = self.await_(self.journal.get_run(Tenant(model.tenant), run))
            assert (record.status, record.epoch, record.cancel_requested) == (
                model.status,
                model.epoch,
                model.cancelled,
            )
            events = self.await_(self.journal.events(run))
            assert [event.seq for event in events] == list(range(1, model.seq + 1))
            calls = self.await_(self.journal.calls(run))
            assert {c.call.key: c.call.state for c in calls} == {k: c.state for k, c in model.calls.items()}
            spent = sum(call.usage for call in model.calls.values())
            assert self.await_(self.journal.usage(run)).input_tokens == spent
        unfinished = self.await_(self.journal.unfinished())
        assert [r.id for r in unfinished] == [id_ for id_, m in self.model.items() if not m.finished]

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.await_(self.journal.close())
            self.runner.close()
            self.folder.cleanup()


JournalMachine.TestCase.settings = settings(
    max_examples=8,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestJournal = JournalMachine.TestCase
