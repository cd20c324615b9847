"""What a gateway counts is told to the journal, once in a while and until it is there."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from coordinator.store.key_records import KeyLimits, KeyRecord, Meter, Spent
from manta.clock import ManualClock
from manta.errors import Unavailable
from manta.ids import Tenant
from serve_app.gateway.access.meters import AGAIN_S, FLUSH_S, USED_S, Meters, tell_all

LAST_DAY = datetime(2026, 10, 31, 12, tzinfo=UTC).timestamp()


def key(name: str) -> KeyRecord:
    return KeyRecord(f"id-{name}", Tenant("acme"), name, ("chat",), KeyLimits(), 0, None, None, None, None)


class Told:
    def __init__(self) -> None:
        self.words: list[tuple[list[Meter], dict[str, float]]] = []
        self.away = False

    async def __call__(self, meter: str, meters: Sequence[Meter], used: Mapping[str, float]) -> None:
        if self.away:
            raise Unavailable("it restarts")
        self.words.append((list(meters), dict(used)))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_counts_are_told_together_and_again_until_they_are_there():
    told, clock = Told(), ManualClock(LAST_DAY)
    meters = Meters(told, clock)
    told.away = True
    for n in range(3):
        meters.add(key("ann"), Spent(n, 2 * n), requests=1)
    await settle()
    await clock.advance(FLUSH_S)
    await settle()
    assert told.words == []
    told.away = False
    meters.add(key("bob"), Spent(5))
    await clock.advance(AGAIN_S + FLUSH_S)
    await settle()
    ((words, used),) = told.words
    assert sorted(words, key=lambda meter: meter.principal) == [
        Meter(Tenant("acme"), "ann", "2026-10-31", 3, Spent(3, 6)),
        Meter(Tenant("acme"), "bob", "2026-10-31", 0, Spent(5)),
    ]
    assert used.keys() == {"id-ann", "id-bob"}
    await clock.advance(FLUSH_S)
    await tell_all(meters)
    assert len(told.words) == 1


async def test_when_a_key_was_used_is_told_coarsely():
    told, clock = Told(), ManualClock(LAST_DAY)
    meters = Meters(told, clock)
    for seconds, news in ((0.0, True), (USED_S / 2, False), (USED_S / 2, True)):
        await clock.advance(seconds)
        meters.add(key("ann"), Spent(), requests=1)
        await meters.tell()
        assert bool(told.words[-1][1]) is news


async def test_a_month_that_is_over_is_the_journals_alone():
    told, clock = Told(), ManualClock(LAST_DAY)
    meters = Meters(told, clock)
    meters.add(key("ann"), Spent(7))
    assert meters.own(key("ann")) == (Spent(7), Spent(7))
    await meters.tell()
    await clock.advance(86400)
    meters.add(key("bob"), Spent(1))
    assert meters.own(key("ann")) == (Spent(), Spent())
    await meters.tell()
    assert list(meters._totals) == [("acme", "bob")]
    # Set back, so that what is gone would be seen.
    clock._now = LAST_DAY
    assert meters.own(key("ann")) == (Spent(), Spent())
