"""The circuit breaker of a model: one that keeps failing is left in peace, then tried with a single call.

    closed ──(failures)──> open ──(pause)──> half open ──(the probe answers)──> closed
                            ^                    │
                            └──(it fails)────────┘

What happens is decided by plain functions over a frozen `Circuit`; `Breaker` keeps one and the time.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal, TypeAlias

from manta.clock import Clock
from manta.errors import Unavailable
from manta.telemetry import get_logger
from serve_app.models.calls.faults import MODEL_UNAVAILABLE

SLOTS = 10
"""Into so many the window is divided: what is counted in one is forgotten together."""

State: TypeAlias = Literal["closed", "open", "half_open"]
Outcome: TypeAlias = Literal["answered", "failed", "neither"]
"""`neither`: the caller's own fault, or it left."""

logger = get_logger("models")


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """Opens after `failures` calls of the last `window_s` seconds failed, if they are at least `share` of all.

    `failures` 0: never. After `pause_s` seconds one call is let through.
    """

    failures: int = 5
    share: float = 0.5
    window_s: float = 30.0
    pause_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Tally:
    """What ended in one slot of time."""

    slot: int
    calls: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Circuit:
    """`opened_at`: None is closed. `probe` numbers the calls let through since; `probe_since`: one is out."""

    tallies: tuple[Tally, ...] = ()
    opened_at: float | None = None
    probe: int = 0
    probe_since: float | None = None

    @property
    def state(self) -> State:
        if self.opened_at is None:
            return "closed"
        return "open" if self.probe_since is None else "half_open"


def admit(rules: BreakerRules, circuit: Circuit, now: float) -> tuple[Circuit, int | None]:
    """A ticket for a call that begins now, to be handed back at its end; None: it must not begin."""
    if circuit.opened_at is None:
        return circuit, 0
    if wait_s(rules, circuit, now) > 0:
        return circuit, None
    probe = circuit.probe + 1
    return dataclasses.replace(circuit, probe=probe, probe_since=now), probe


def wait_s(rules: BreakerRules, circuit: Circuit, now: float) -> float:
    """Seconds until a call may begin. A probe that does not end is waited for as long as for the first one."""
    if circuit.opened_at is None:
        return 0.0
    # A difference, not a sum: what is over is then over for `admit` too.
    waited = now - (circuit.opened_at if circuit.probe_since is None else circuit.probe_since)
    return max(0.0, rules.pause_s - waited)


def ended(rules: BreakerRules, circuit: Circuit, now: float, ticket: int, outcome: Outcome) -> Circuit:
    """After a call. While the circuit is not closed, only the probe's end matters."""
    if circuit.opened_at is None:
        return circuit if outcome == "neither" else _counted(rules, circuit, now, outcome == "failed")
    if circuit.probe_since is None or ticket != circuit.probe:
        return circuit
    if outcome == "answered":
        return Circuit(probe=circuit.probe)
    opened_at = now if outcome == "failed" else circuit.opened_at
    return Circuit(opened_at=opened_at, probe=circuit.probe)


def _counted(rules: BreakerRules, circuit: Circuit, now: float, failed: bool) -> Circuit:
    slot = int(now // (rules.window_s / SLOTS))
    tallies = [tally for tally in circuit.tallies if tally.slot > slot - SLOTS]
    current = tallies.pop() if tallies and tallies[-1].slot == slot else Tally(slot)
    tallies.append(Tally(slot, current.calls + 1, current.failures + failed))
    calls, failures = sum(t.calls for t in tallies), sum(t.failures for t in tallies)
    opens = failed and 0 < rules.failures <= failures and failures >= rules.share * calls
    if opens:
        return Circuit(opened_at=now, probe=circuit.probe)
    return dataclasses.replace(circuit, tallies=tuple(tallies))


class Breaker:
    """The circuit of one model as this process sees it: what fails for one gateway may answer another."""

    def __init__(self, name: str, rules: BreakerRules, clock: Clock) -> None:
        self._name = name
        self._rules = rules
        self._clock = clock
        self._circuit = Circuit()

    @property
    def state(self) -> State:
        return self._circuit.state

    def enter(self) -> int:
        """A ticket for one call. Raises Unavailable, code `model_unavailable`, with `retry_after_s`."""
        now = self._clock.monotonic()
        self._circuit, ticket = admit(self._rules, self._circuit, now)
        if ticket is None:
            error = Unavailable(
                f"model {self._name} has failed too often just now",
                fix="try again later, or give it fallbacks",
                code=MODEL_UNAVAILABLE,
            )
            error.retry_after_s = wait_s(self._rules, self._circuit, now)
            raise error
        return ticket

    def leave(self, ticket: int, outcome: Outcome) -> None:
        before = self._circuit
        self._circuit = ended(self._rules, before, self._clock.monotonic(), ticket, outcome)
        if (before.state == "closed") != (self.state == "closed"):
            logger.warning("the breaker of model %s is %s", self._name, self.state)
