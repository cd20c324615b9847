"""What the journal should say, kept in plain objects: the other half of the state machine in `test_model`."""

from dataclasses import dataclass, field

from coordinator.store.decisions import FITTING
from coordinator.store.records import TERMINAL_STATUSES
from manta.errors import (
    BudgetExceeded,
    Conflict,
    InvalidInput,
    MantaError,
    NotFound,
    OutcomeUnknown,
    StaleEpoch,
)

Refusal = type[MantaError] | None


@dataclass
class ModelCall:
    state: str
    idempotent: bool
    attempt: int
    reserve: int = 0
    usage: int = 0
    failed: bool = False


@dataclass
class ModelStep:
    state: str
    attempt: int
    epoch: int
    reason: str = ""


@dataclass
class ModelRun:
    """A run with one step. Decisions are (action, taken)."""

    tenant: str
    status: str = "pending"
    epoch: int = 0
    owner: str | None = None
    cancelled: bool = False
    seq: int = 0
    takeovers: int = 0
    wake_at: float | None = None
    step: ModelStep | None = None
    calls: dict[str, ModelCall] = field(default_factory=dict)
    decisions: list[tuple[str, bool]] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self.status in TERMINAL_STATUSES

    @property
    def attempt(self) -> int:
        return self.step.attempt if self.step is not None else 0

    @property
    def holds(self) -> bool:
        """Whether its step waits for a person."""
        return self.step is not None and self.step.state == "waiting" and not self.finished

    @property
    def open_decisions(self) -> list[int]:
        return [n for n, (_, taken) in enumerate(self.decisions, 1) if not taken]

    @property
    def spent(self) -> int:
        return sum(call.usage for call in self.calls.values())

    def claim_error(self, owner: str, alive: bool) -> Refusal:
        owned = self.status == "running" and self.owner not in (None, owner) and alive
        return Conflict if self.finished or owned else None

    def claim(self, owner: str) -> None:
        self.takeovers += self.status == "running" and self.owner is not None
        self.epoch, self.owner, self.status, self.wake_at = self.epoch + 1, owner, "running", None
        self.give_up_calls()

    def commit_error(self, epoch: int) -> Refusal:
        if epoch < 1 or epoch != self.epoch:
            return StaleEpoch
        if self.finished:
            return Conflict
        return None if self.status == "running" else StaleEpoch

    def step_error(self, epoch: int, attempt: int) -> Refusal:
        error = self.commit_error(epoch)
        if error is not None or self.step is None:
            return error
        if self.step.state == "done":
            return Conflict
        return StaleEpoch if self.step.epoch == self.epoch and attempt < self.step.attempt else None

    def change_step(self, state: str, attempt: int, reason: str = "") -> None:
        self.give_up_calls(but_attempt=attempt if state == "started" else None)
        self.step = ModelStep(state, attempt, self.epoch, reason)
        if state != "waiting":
            # An answer to a question that nobody asks any more.
            self.take_decisions()
        if state == "done":
            self.takeovers = 0

    def give_up_calls(self, but_attempt: int | None = None) -> None:
        for call in self.calls.values():
            if call.state == "intent" and call.attempt != but_attempt:
                call.state, call.reserve = "unknown", 0

    def park(self, wake_at: float | None) -> None:
        called = self.cancelled or bool(self.open_decisions)
        self.status, self.owner = "pending" if called else "waiting", None
        self.wake_at = None if called else wake_at

    def cancel(self) -> None:
        if self.status == "waiting" and not self.cancelled:
            self.wake_at = 0.0
        self.cancelled = True

    def decide_error(self, action: str) -> Refusal:
        assert self.step is not None or not self.holds
        open_ = self.open_decisions if self.holds else []
        given = self.decisions[open_[0] - 1] if open_ else None
        if given is None and not self.holds and self.decisions:
            given = self.decisions[-1]
        if given is not None:
            return None if given[0] == action else Conflict
        if not self.holds or self.step is None:
            return Conflict
        return None if action in FITTING[self.step.reason] else InvalidInput

    def decide(self, action: str) -> None:
        if not self.holds or self.open_decisions:
            return
        self.decisions.append((action, False))
        if self.status == "waiting":
            self.status, self.wake_at = "pending", None

    def take_decisions(self) -> None:
        self.decisions = [(action, True) for action, _ in self.decisions]

    def reopen(self) -> None:
        self.give_up_calls()
        if self.step is None or self.step.state != "done":
            self.step = None
            for call in self.calls.values():
                if call.idempotent and (call.failed or call.state == "unknown"):
                    call.state, call.failed = "cleared", False
        self.status, self.owner, self.cancelled, self.takeovers = "pending", None, False, 0
        self.seq += 1

    def call_error(self, epoch: int, attempt: int, tenant: str) -> Refusal:
        if tenant != self.tenant:
            return NotFound
        at_work = self.status == "running" and self.step is not None and self.step.state == "started"
        current = at_work and epoch == self.epoch and epoch > 0 and attempt == self.attempt
        return None if current else StaleEpoch

    def begin_error(self, key: str, idempotent: bool, reserve: int, limit: int) -> Refusal:
        call = self.calls.get(key)
        if call is not None and call.state == "done":
            return None
        if call is not None and call.state == "unknown" and not (call.idempotent and idempotent):
            return OutcomeUnknown
        others = sum(other.reserve for name, other in self.calls.items() if name != key)
        return BudgetExceeded if self.spent + others + reserve > limit else None

    def begin_call(self, key: str, idempotent: bool, reserve: int, attempt: int) -> None:
        used = self.calls[key].usage if key in self.calls else 0
        self.calls[key] = ModelCall("intent", idempotent, attempt, reserve, used)
