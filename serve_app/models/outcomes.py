"""How the versions of a model do beside each other: what this process saw, and the telling of it to the registry."""

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from coordinator.store.model_records import ArmTotals
from manta.clock import Clock
from manta.detached import detached
from manta.errors import MantaError
from manta.messages import Usage
from manta.telemetry import get_logger

FLUSH_S = 1.0
"""How long an outcome may be known to this process alone; what one that is killed forgets."""
AGAIN_S = 5.0
LEAST_S = 1e-4
"""Shorter times count as this: their logarithm is taken."""

Record: TypeAlias = Callable[[str, Sequence[ArmTotals]], Awaitable[None]]
_Place: TypeAlias = tuple[str, int, int]

logger = get_logger("models")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One call as its caller saw it. `first_s` and `total_s`: seconds to the first chunk and to the last.

    A call whose chosen version another one stood in for has failed.
    """

    failed: bool
    first_s: float | None = None
    total_s: float | None = None
    usage: Usage | None = None


def added(totals: ArmTotals, outcome: Outcome) -> ArmTotals:
    totals = replace(totals, calls=totals.calls + 1, failures=totals.failures + outcome.failed)
    usage = outcome.usage
    if outcome.failed or outcome.first_s is None or outcome.total_s is None or usage is None:
        return totals
    first, total = (math.log(max(seconds, LEAST_S)) for seconds in (outcome.first_s, outcome.total_s))
    micros = float(usage.cost_micros)
    return replace(
        totals,
        answered=totals.answered + 1,
        first_log_sum=totals.first_log_sum + first,
        first_log_squares=totals.first_log_squares + first * first,
        total_log_sum=totals.total_log_sum + total,
        total_log_squares=totals.total_log_squares + total * total,
        output_tokens=totals.output_tokens + usage.output_tokens,
        micros_sum=totals.micros_sum + micros,
        micros_squares=totals.micros_squares + micros * micros,
    )


class Outcomes:
    """Totals since this process started; each is told to the registry after it grew, and twice is as once."""

    def __init__(self, record: Record, clock: Clock) -> None:
        self._id = secrets.token_hex(8)
        self._record = record
        self._clock = clock
        self._totals: dict[_Place, ArmTotals] = {}
        self._untold: set[_Place] = set()
        self._telling: asyncio.Task[None] | None = None

    def note(self, model: str, revision: int, version: int, outcome: Outcome) -> None:
        place = (model, revision, version)
        before = self._totals.get(place) or ArmTotals(model=model, revision=revision, version=version)
        self._totals[place] = added(before, outcome)
        self._untold.add(place)
        if self._telling is None or self._telling.done():
            self._telling = detached(self._tell_soon())

    async def _tell_soon(self) -> None:
        while self._untold:
            await self._clock.sleep(FLUSH_S)
            try:
                await self.tell()
            except MantaError as error:
                logger.warning("what models' versions did is not in the registry yet: %s", error)
                await self._clock.sleep(AGAIN_S)

    async def tell(self) -> None:
        """Everything that the registry has not been told. Raises Unavailable."""
        told = {place: self._totals[place] for place in self._untold}
        if not told:
            return
        await self._record(self._id, list(told.values()))
        self._untold -= {place for place, totals in told.items() if self._totals[place] == totals}
