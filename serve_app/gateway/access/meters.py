"""What this gateway has counted for each key's name, and the telling of it to the journal."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from coordinator.store.key_meters import day_of
from coordinator.store.key_records import KeyRecord, Meter, Spent
from manta.clock import Clock
from manta.errors import MantaError
from serve_app.gateway.errors import logger
from serve_app.gateway.streaming import in_background

FLUSH_S = 1.0
"""How long a count may be known to this gateway alone; what a gateway that is killed forgets."""
AGAIN_S = 5.0
USED_S = 60.0
"""How coarse `last used` is."""

Record: TypeAlias = Callable[[str, Sequence[Meter], Mapping[str, float]], Awaitable[None]]
_Name: TypeAlias = tuple[str, str]
_Place: TypeAlias = tuple[_Name, str]


class Meters:
    """Totals since this gateway started, by tenant, name and day; each is told to the journal after it grew."""

    def __init__(self, record: Record, clock: Clock) -> None:
        self.id = secrets.token_hex(8)
        self._record = record
        self._clock = clock
        self._totals: dict[_Name, dict[str, Meter]] = {}
        self._untold: set[_Place] = set()
        self._used: dict[str, float] = {}
        self._used_told: dict[str, float] = {}
        self._telling = False

    def add(self, key: KeyRecord, spent: Spent, requests: int = 0) -> None:
        now = self._clock.now()
        name, day = (key.tenant, key.principal), day_of(now)
        days = self._totals.setdefault(name, {})
        old = days.get(day) or Meter(key.tenant, key.principal, day)
        days[day] = replace(old, requests=old.requests + requests, spent=old.spent + spent)
        self._untold.add((name, day))
        if now - self._used_told.get(key.id, 0.0) >= USED_S:
            self._used[key.id] = now
        if not self._telling:
            self._telling = True
            in_background(self._tell_soon())

    def own(self, key: KeyRecord) -> tuple[Spent, Spent]:
        """What this gateway has counted for the key's name today and this month."""
        day = day_of(self._clock.now())
        today, month = Spent(), Spent()
        for when, meter in self._totals.get((key.tenant, key.principal), {}).items():
            if when[:7] == day[:7]:
                month += meter.spent
                today += meter.spent if when == day else Spent()
        return today, month

    async def _tell_soon(self) -> None:
        try:
            while self._untold:
                await self._clock.sleep(FLUSH_S)
                try:
                    await self.tell()
                except MantaError as error:
                    logger.warning("what keys have used is not in the journal yet: %s", error)
                    await self._clock.sleep(AGAIN_S)
        finally:
            self._telling = False

    async def tell(self) -> None:
        """Everything that the journal has not been told; done twice it is the same."""
        told = {(name, day): self._totals[name][day] for name, day in self._untold}
        used = dict(self._used)
        if not told:
            return
        await self._record(self.id, list(told.values()), used)
        for (name, day), meter in told.items():
            if self._totals[name][day] == meter:
                self._untold.discard((name, day))
        for key, at in used.items():
            self._used_told[key] = at
            if self._used.get(key) == at:
                del self._used[key]
        self._drop_old()

    def _drop_old(self) -> None:
        """Months that are over are the journal's alone."""
        month = day_of(self._clock.now())[:7]
        for name, days in list(self._totals.items()):
            for day in [day for day in days if day[:7] < month and (name, day) not in self._untold]:
                del days[day]
            if not days:
                del self._totals[name]


async def tell_all(meters: Meters) -> None:
    """At the gateway's own end; what cannot be told then is lost."""
    try:
        async with asyncio.timeout(FLUSH_S):
            await meters.tell()
    except (MantaError, TimeoutError) as error:
        logger.warning("the last second's use of keys is not in the journal: %s", error)
