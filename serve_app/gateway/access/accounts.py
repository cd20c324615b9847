"""What each key takes: requests, tokens, runs at a time, and what it may spend over time."""

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from coordinator.store.key_records import KeyOnFile, Spent
from manta.clock import Clock
from manta.errors import BudgetExceeded, Forbidden, RateLimited
from manta.usage import Budget
from serve_app.gateway.access.buckets import Bucket, Rate, Wait
from serve_app.gateway.access.budgets import Over, over, remaining
from serve_app.gateway.access.meters import Meters
from serve_app.gateway.access.scopes import Need, allows

KEPT = 10_000
NEVER_S = 60.0
"""When to come back with a request that never fits: not sooner than the bucket is full."""
RUNS_AGAIN_S = 5.0

Running: TypeAlias = Callable[[str, str], Awaitable[int]]
"""How many runs a tenant's name has at work."""


@dataclass(slots=True)
class _State:
    """What this gateway remembers of a key. `held`: reserved for calls in flight."""

    requests: Bucket | None = None
    tokens: Bucket | None = None
    held: Spent = field(default_factory=Spent)
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)


class Accounts:
    """Buckets of all keys, each in this gateway alone; what is spent over time is in the journal."""

    def __init__(self, meters: Meters, running: Running, clock: Clock) -> None:
        self.meters = meters
        self.running = running
        self.clock = clock
        self._states: OrderedDict[str, _State] = OrderedDict()

    def of(self, on_file: KeyOnFile) -> "Account":
        key = on_file.record.id
        state = self._states.setdefault(key, _State())
        self._states.move_to_end(key)
        while len(self._states) > KEPT:
            # Whoever has not come for so long has full buckets again.
            self._states.popitem(last=False)
        return Account(self, on_file, state)


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a call may use at most, held back until it is settled."""

    expected: Spent


class Account:
    """One key's, for one request."""

    def __init__(self, accounts: Accounts, on_file: KeyOnFile, state: _State) -> None:
        self._accounts = accounts
        self._on_file = on_file
        self._state = state
        self._limits = on_file.record.limits
        self.record = on_file.record

    def require(self, need: Need) -> None:
        """Raises Forbidden."""
        if not allows(frozenset(self.record.scopes), need):
            raise Forbidden(
                f"the key has not the scope {need}", fix="use a key that has it: manta keys create"
            )

    def take_request(self) -> None:
        """Raises RateLimited."""
        self._accounts.meters.add(self.record, Spent(), requests=1)
        limit = self._limits.requests_per_minute
        if limit is None:
            return
        rate, now = Rate.a_minute(limit), self._now()
        bucket = (self._state.requests or Bucket.full(rate, now)).take(rate, 1, now)
        if isinstance(bucket, Wait):
            raise _limited(f"over {limit} requests a minute", bucket.seconds)
        self._state.requests = bucket

    def reserve(self, expected: Spent) -> Reservation:
        """Holds back what a call may use at most.

        Raises:
            RateLimited: it is more than the minute has left, or could ever have.
            BudgetExceeded: it is more than the day or the month has left.
        """
        self._require_budget(expected)
        limit = self._limits.tokens_per_minute
        if limit is not None:
            rate, now = Rate.a_minute(limit), self._now()
            bucket = (self._state.tokens or Bucket.full(rate, now)).take(rate, expected.tokens, now)
            if isinstance(bucket, Wait):
                raise _limited(f"{expected.tokens} tokens would go over {limit} a minute", bucket.seconds)
            self._state.tokens = bucket
        self._state.held += expected
        return Reservation(expected)

    def settle(self, reservation: Reservation, used: Spent) -> None:
        """Ends a reservation with what was used in truth."""
        expected = reservation.expected
        self._state.held += Spent(-expected.tokens, -expected.micros)
        limit = self._limits.tokens_per_minute
        if limit is not None and self._state.tokens is not None:
            rate = Rate.a_minute(limit)
            self._state.tokens = self._state.tokens.settle(rate, expected.tokens, used.tokens, self._now())
        self._accounts.meters.add(self.record, used)

    @asynccontextmanager
    async def starting_a_run(self) -> AsyncGenerator[Budget | None]:
        """Held while a run is sent off; gives what the run may use at most of what the key has left.

        Raises:
            Forbidden, RateLimited, BudgetExceeded: there shall be none now.
        """
        self.require("runs:write")
        self._require_budget(Spent())
        limit = self._limits.concurrent_runs
        if limit is None:
            yield self._left()
            return
        # One at a time: between the counting and the sending another would be counted as absent.
        async with self._state.starting:
            if await self._accounts.running(self.record.tenant, self.record.principal) >= limit:
                error = RateLimited(f"{limit} runs are at work already", fix="wait for one to end")
                error.retry_after_s = RUNS_AGAIN_S
                raise error
            yield self._left()

    def headers(self) -> dict[str, str]:
        """What OpenAI's API tells of limits; nothing where there are none."""
        told: dict[str, str] = {}
        now = self._now()
        for name, limit, bucket in (
            ("requests", self._limits.requests_per_minute, self._state.requests),
            ("tokens", self._limits.tokens_per_minute, self._state.tokens),
        ):
            if limit is None:
                continue
            rate = Rate.a_minute(limit)
            here = (bucket or Bucket.full(rate, now)).seen(rate, now)
            told[f"x-ratelimit-limit-{name}"] = str(limit)
            told[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(here.level)))
            told[f"x-ratelimit-reset-{name}"] = duration(here.full_in(rate, now))
        return told

    def _require_budget(self, asked: Spent) -> None:
        today, month = self._spent()
        found = over(self._limits, today, month, asked, self._accounts.clock.now())
        if found is not None:
            raise _used_up(found)

    def _left(self) -> Budget | None:
        return remaining(self._limits, *self._spent())

    def _spent(self) -> tuple[Spent, Spent]:
        today, month = self._accounts.meters.own(self.record)
        held = self._state.held
        return self._on_file.today + today + held, self._on_file.this_month + month + held

    def _now(self) -> float:
        return self._accounts.clock.monotonic()


def duration(seconds: float) -> str:
    """As OpenAI's headers have it: `120ms`, `6.5s`, `2m3s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{seconds:.3g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s"


def _limited(cause: str, wait_s: float) -> RateLimited:
    never = math.isinf(wait_s)
    error = RateLimited(cause, fix="ask for fewer at once" if never else "ask less often")
    error.retry_after_s = NEVER_S if never else wait_s
    return error


def _used_up(found: Over) -> BudgetExceeded:
    error = BudgetExceeded(
        f"of this {found.period}'s {found.limit:g} {found.unit} the key has {found.left:g} left",
        fix="wait for the next, or have the key's budget raised",
    )
    error.retry_after_s = found.seconds
    return error
