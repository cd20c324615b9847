"""Schedules know when they are due, and go on whatever came of the last time."""

import asyncio
from typing import Any

import pytest

from coordinator.store.journal import Journal
from manta.clock import ManualClock
from manta.errors import InvalidInput, NotFound
from manta.ids import new_run_id
from tests.store.support import OTHER, TENANT

HOURLY = "0 * * * *"
HOUR = 3600.0
START = 1_700_000_000.0
FIRST = START - START % HOUR + HOUR
"""The first full hour after the clock's start."""


async def made(journal: Journal, **changes):
    values = {"tenant": TENANT, "principal": "ann", "graph": "report", "input": {"q": 1}, "cron": HOURLY}
    return await journal.schedules.create(**(values | changes))


async def test_a_new_schedule_reads_back_with_its_first_time(journal: Journal, clock: ManualClock):
    schedule = await made(
        journal, cron=" 30 7  * * 1 ", timezone="Europe/Berlin", metadata={"team": "a"}, input=[None]
    )
    assert schedule == await journal.schedules.get(TENANT, schedule.id)
    assert (schedule.graph, schedule.input, schedule.principal) == ("report", [None], "ann")
    assert (schedule.cron, schedule.timezone, schedule.metadata) == (
        "30 7 * * 1",
        "Europe/Berlin",
        {"team": "a"},
    )
    # 14 November 2023 was a Tuesday.
    assert schedule.next_at == 1_700_461_800.0
    assert (schedule.enabled, schedule.last_at, schedule.last_run, schedule.last_error) == (
        True,
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    "change",
    [{"cron": "x"}, {"timezone": "Mars"}, {"input": {"a": object()}}, {"metadata": []}, {"graph": ""}],
)
async def test_a_schedule_of_no_use_is_refused(journal: Journal, change):
    with pytest.raises(InvalidInput) as refused:
        await made(journal, **change)
    assert refused.value.fix
    assert await journal.schedules.list(TENANT) == []


async def test_the_list_is_the_tenants_newest_first(journal: Journal):
    ids = [(await made(journal, graph=graph)).id for graph in ("a", "b", "a")]
    await made(journal, tenant=OTHER)

    async def listed(*arguments: Any, **filters: Any) -> list[str]:
        return [s.id for s in await journal.schedules.list(TENANT, *arguments, **filters)]

    assert await listed() == ids[::-1]
    assert await listed("a") == [ids[2], ids[0]]
    assert await listed(limit=1, offset=1) == [ids[1]]


async def test_what_is_due_comes_with_the_longest_overdue_first(journal: Journal, clock: ManualClock):
    late = await made(journal, cron="30 * * * *")
    later = await made(journal, tenant=OTHER)
    off = await made(journal, enabled=False)
    assert off.next_at is None
    assert await journal.schedules.due(clock.now()) == []
    upcoming = await journal.schedules.next_due()
    assert upcoming == min(late.next_at, later.next_at)

    due = await journal.schedules.due(FIRST + HOUR)
    assert {s.id for s in due} == {late.id, later.id}
    assert [s.next_at for s in due] == sorted(s.next_at for s in due)
    assert len(await journal.schedules.due(FIRST + HOUR, 1)) == 1


async def test_a_schedule_that_fired_waits_for_its_next_time(journal: Journal):
    schedule = await made(journal)
    run = new_run_id()
    await journal.schedules.failed(TENANT, schedule.id, FIRST, FIRST + HOUR, {"code": "gone"})
    failed = await journal.schedules.get(TENANT, schedule.id)
    assert (failed.last_error, failed.last_run, failed.next_at) == ({"code": "gone"}, None, FIRST + HOUR)

    await journal.schedules.fired(TENANT, schedule.id, FIRST + HOUR, FIRST + 2 * HOUR, run)
    fired = await journal.schedules.get(TENANT, schedule.id)
    assert (fired.last_at, fired.last_run, fired.last_error) == (FIRST + HOUR, run, None)
    assert fired.next_at == FIRST + 2 * HOUR
    assert await journal.schedules.due(FIRST + HOUR) == []


async def test_an_older_word_changes_nothing(journal: Journal):
    schedule = await made(journal)
    newest, oldest = new_run_id(), new_run_id()
    await journal.schedules.fired(TENANT, schedule.id, FIRST + HOUR, FIRST + 2 * HOUR, newest)
    await journal.schedules.fired(TENANT, schedule.id, FIRST, FIRST + HOUR, oldest)
    await journal.schedules.failed(TENANT, schedule.id, FIRST, FIRST + HOUR, {})
    fired = await journal.schedules.get(TENANT, schedule.id)
    assert (fired.last_run, fired.next_at, fired.last_error) == (newest, FIRST + 2 * HOUR, None)


async def test_disabling_forgets_what_was_missed(journal: Journal, clock: ManualClock):
    schedule = await made(journal)
    off = await journal.schedules.patch(TENANT, schedule.id, enabled=False)
    assert (off.enabled, off.next_at) == (False, None)
    # Its last run was being made meanwhile: that does not bring it back.
    await journal.schedules.fired(TENANT, schedule.id, FIRST, FIRST + HOUR, new_run_id())
    assert (await journal.schedules.get(TENANT, schedule.id)).next_at is None

    await clock.advance(10 * HOUR)
    on = await journal.schedules.patch(TENANT, schedule.id, enabled=True)
    assert on.next_at == FIRST + 10 * HOUR


async def test_a_patch_changes_what_it_names(journal: Journal, clock: ManualClock):
    schedule = await made(journal)
    await clock.advance(60)
    new = await journal.schedules.patch(TENANT, schedule.id, input={"q": 2})
    assert (new.input, new.cron, new.next_at) == ({"q": 2}, HOURLY, schedule.next_at)
    assert new.updated_at == clock.now()
    new = await journal.schedules.patch(TENANT, schedule.id, cron="0 0 1 1 *", timezone="Asia/Tokyo")
    assert (new.input, new.timezone, new.next_at) == ({"q": 2}, "Asia/Tokyo", 1_704_034_800.0)
    # What fired by the old times does not set the new ones.
    await journal.schedules.fired(TENANT, schedule.id, FIRST, FIRST + HOUR, new_run_id())
    assert (await journal.schedules.get(TENANT, schedule.id)).next_at == 1_704_034_800.0
    for wrong in ({"cron": "x"}, {"timezone": "x"}, {"input": {"a": object()}}):
        with pytest.raises(InvalidInput):
            await journal.schedules.patch(TENANT, schedule.id, **wrong)


async def test_another_tenants_schedule_is_not_there(journal: Journal):
    schedule = await made(journal)
    rooms = journal.schedules
    for call in (
        rooms.get(OTHER, schedule.id),
        rooms.patch(OTHER, schedule.id, enabled=False),
        rooms.delete(OTHER, schedule.id),
        rooms.get(TENANT, "a\0b"),
    ):
        with pytest.raises(NotFound):
            await call
    await rooms.delete(TENANT, schedule.id)
    with pytest.raises(NotFound):
        await rooms.get(TENANT, schedule.id)
    # Whoever was making its run says so too late.
    await rooms.fired(TENANT, schedule.id, FIRST, FIRST + HOUR, new_run_id())
    assert await asyncio.gather(rooms.due(FIRST), rooms.next_due()) == [[], None]
