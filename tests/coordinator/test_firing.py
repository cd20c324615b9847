"""Schedules make their runs: once for a time, the latest of those missed, and whatever the last one came to."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator.firing import RETRY_S, fire_due
from coordinator.store.journal import Journal
from coordinator.store.library_records import ScheduleRecord
from coordinator.store.library_schema import schedules
from manta.clock import ManualClock
from manta.errors import NotFound, Overloaded
from manta.ids import RunId
from tests.store.support import TENANT, a_run

HOUR = 3600.0
START = 1_700_000_000.0
FIRST = START - START % HOUR + HOUR


class Submitter:
    """Makes real runs, in place of the coordinator; `refuse` is raised instead when set."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.refuse: Exception | None = None
        self.asked: list[str] = []

    async def __call__(self, schedule: ScheduleRecord, key: str) -> RunId:
        self.asked.append(key)
        if self.refuse is not None:
            raise self.refuse
        wanted = a_run(graph_name=schedule.graph, input=schedule.input, idempotency_key=key)
        record, _ = await self._journal.create_run(wanted)
        return record.id


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
async def journal(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Journal]:
    opened = await Journal.open(f"sqlite:///{tmp_path}/journal.db", clock)
    yield opened
    await opened.close()


async def hourly(journal: Journal) -> ScheduleRecord:
    return await journal.schedules.create(TENANT, "ann", "report", {"q": 1}, "0 * * * *")


async def test_nothing_is_made_before_its_time(journal: Journal):
    submit = Submitter(journal)
    assert await fire_due(journal.schedules, submit, START) is None
    await hourly(journal)
    assert await fire_due(journal.schedules, submit, START) == FIRST - START
    assert await fire_due(journal.schedules, submit, FIRST - 1) == 1
    assert submit.asked == []


async def test_each_time_makes_one_run(journal: Journal):
    submit = Submitter(journal)
    schedule = await hourly(journal)
    for hour in range(3):
        assert await fire_due(journal.schedules, submit, FIRST + hour * HOUR + 1) == HOUR - 1
        assert await fire_due(journal.schedules, submit, FIRST + hour * HOUR + 2) == HOUR - 2

    runs = await journal.list_runs(TENANT)
    assert len(runs) == 3
    assert len(submit.asked) == 3
    assert submit.asked[0] == f"schedule:{schedule.id}:{int(FIRST)}"
    told = await journal.schedules.get(TENANT, schedule.id)
    assert (told.last_run, told.last_at, runs[0].input) == (runs[0].id, FIRST + 2 * HOUR, {"q": 1})


async def test_of_missed_times_the_latest_is_made_up_for(journal: Journal):
    submit = Submitter(journal)
    schedule = await hourly(journal)
    await fire_due(journal.schedules, submit, FIRST + 50 * HOUR + 60)
    assert submit.asked == [f"schedule:{schedule.id}:{int(FIRST + 50 * HOUR)}"]
    assert (await journal.schedules.get(TENANT, schedule.id)).next_at == FIRST + 51 * HOUR


async def test_coordinators_beside_each_other_make_one_run(
    journal: Journal, clock: ManualClock, tmp_path: Path
):
    second = await Journal.open(f"sqlite:///{tmp_path}/journal.db", clock)
    await hourly(journal)
    try:
        await asyncio.gather(
            *(fire_due(j.schedules, Submitter(j), FIRST) for _ in range(3) for j in (journal, second))
        )
    finally:
        await second.close()
    assert len(await journal.list_runs(TENANT)) == 1


async def test_a_run_whose_making_was_not_noted_is_not_made_twice(journal: Journal):
    schedule = await hourly(journal)
    submit = Submitter(journal)
    # Its coordinator died between the two.
    made = await submit(schedule, f"schedule:{schedule.id}:{int(FIRST)}")
    await fire_due(journal.schedules, submit, FIRST + 5)
    assert [run.id for run in await journal.list_runs(TENANT)] == [made]
    assert (await journal.schedules.get(TENANT, schedule.id)).last_run == made


async def test_a_schedule_whose_graph_is_gone_says_so_and_goes_on(journal: Journal):
    submit = Submitter(journal)
    schedule = await hourly(journal)
    submit.refuse = NotFound("there is no graph 'report'", code="unknown_graph")
    assert await fire_due(journal.schedules, submit, FIRST) == HOUR
    told = await journal.schedules.get(TENANT, schedule.id)
    assert (told.last_error["code"], told.last_run, told.enabled) == ("unknown_graph", None, True)

    submit.refuse = None
    await fire_due(journal.schedules, submit, FIRST + HOUR)
    told = await journal.schedules.get(TENANT, schedule.id)
    assert (told.last_error, told.last_at) == (None, FIRST + HOUR)
    assert told.last_run is not None


async def test_a_full_queue_is_waited_out(journal: Journal):
    submit = Submitter(journal)
    schedule = await hourly(journal)
    submit.refuse = Overloaded("full")
    assert await fire_due(journal.schedules, submit, FIRST) == RETRY_S
    assert (await journal.schedules.get(TENANT, schedule.id)).next_at == FIRST
    submit.refuse = None
    await fire_due(journal.schedules, submit, FIRST + RETRY_S)
    assert len(await journal.list_runs(TENANT)) == 1
    assert submit.asked[0] == submit.asked[1]


async def test_one_whose_time_zone_is_gone_rests_and_holds_nobody_up(journal: Journal):
    broken, sound = await hourly(journal), await hourly(journal)
    lost = schedules.update().where(schedules.c.id == broken.id).values(timezone="Europe/Atlantis")
    await journal.schedules._write(lambda c: c.execute(lost).close())

    assert await fire_due(journal.schedules, Submitter(journal), FIRST) == HOUR
    told = await journal.schedules.get(TENANT, broken.id)
    assert (told.next_at, told.last_error["code"]) == (None, "invalid_input")
    assert (await journal.schedules.get(TENANT, sound.id)).last_run is not None
