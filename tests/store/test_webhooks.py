"""The outbox: queued with the run's end, shared fairly between hosts and between coordinators."""

import asyncio

import pytest

from coordinator.store.journal import Journal
from coordinator.store.records import RunChange
from coordinator.store.webhooks import LEASE_S
from manta.clock import ManualClock
from manta.errors import StaleEpoch
from tests.store.library_support import finished
from tests.store.support import TENANT, a_run, claimed

URL = "https://hooks.example/run?x=1"
BROKEN = {"code": "webhook_refused", "message": "500"}


@pytest.mark.parametrize("status", ["success", "error", "timeout", "interrupted"])
async def test_the_end_of_a_run_queues_its_webhook(journal: Journal, clock: ManualClock, status):
    run = await claimed(journal, webhook=URL)
    await journal.commit(run.id, run.epoch, [RunChange("waiting")])
    await journal.claim(run.id, "me")
    assert await journal.webhooks.list(TENANT, run.id) == []
    assert await journal.webhooks.next_due() is None

    await journal.commit(run.id, 2, [RunChange(status)])
    [queued] = await journal.webhooks.list(TENANT, run.id)
    assert (queued.run, queued.tenant, queued.url, queued.host) == (run.id, TENANT, URL, "hooks.example")
    assert (queued.state, queued.attempts, queued.next_at) == ("pending", 0, clock.now())
    assert await journal.webhooks.next_due() == clock.now()


async def test_a_run_without_a_webhook_and_a_refused_commit_queue_none(journal: Journal):
    await finished(journal)
    run = await claimed(journal, webhook=URL)
    with pytest.raises(StaleEpoch):
        await journal.commit(run.id, run.epoch + 1, [RunChange("success")])
    assert await journal.webhooks.next_due() is None


async def test_a_run_that_is_resumed_says_so_again(journal: Journal):
    run = await finished(journal, "error", webhook=URL)
    await journal.reopen(TENANT, run.id)
    again = await journal.claim(run.id, "me")
    await journal.commit(run.id, again.epoch, [RunChange("success")])
    first, second = await journal.webhooks.list(TENANT, run.id)
    assert first.id != second.id


async def test_what_is_taken_is_leased_and_counted(journal: Journal, clock: ManualClock):
    run = await finished(journal, webhook=URL)
    [taken] = await journal.webhooks.due(clock.now(), 10, 10)
    assert taken.attempts == 1
    assert await journal.webhooks.due(clock.now(), 10, 10) == []
    assert await journal.webhooks.next_due() == clock.now() + LEASE_S

    # Nothing was heard of it: its process died.
    [again] = await journal.webhooks.due(clock.now() + LEASE_S, 10, 10)
    assert (again.id, again.attempts) == (taken.id, 2)
    await journal.webhooks.failed(again.id, BROKEN, clock.now() + 100)
    [waiting] = await journal.webhooks.list(TENANT, run.id)
    assert (waiting.state, waiting.error, waiting.next_at) == ("pending", BROKEN, clock.now() + 100)


async def test_the_end_of_a_message_is_final(journal: Journal, clock: ManualClock):
    for _ in range(2):
        await finished(journal, webhook=URL)
    sent, lost = await journal.webhooks.due(clock.now(), 10, 10)
    await journal.webhooks.delivered(sent.id)
    await journal.webhooks.failed(lost.id, BROKEN, None)
    # A second coordinator was slower with the same message.
    await journal.webhooks.failed(sent.id, BROKEN, clock.now())

    assert await journal.webhooks.next_due() is None
    [delivered] = await journal.webhooks.list(TENANT, sent.run)
    [failed] = await journal.webhooks.list(TENANT, lost.run)
    assert (delivered.state, delivered.error, delivered.next_at) == ("delivered", None, None)
    assert (failed.state, failed.error, failed.next_at) == ("failed", BROKEN, None)


async def test_no_host_takes_all_places(journal: Journal, clock: ManualClock):
    for n in range(12):
        host = "slow" if n < 8 else f"quick{n}"
        await finished(journal, webhook=f"http://{host}:80/")
        await clock.advance(1)

    taken = await journal.webhooks.due(clock.now(), 100, 3, busy={"quick9"})
    assert [t.host for t in taken] == ["slow", "slow", "slow", "quick8", "quick10", "quick11"]
    # Of one host the longest overdue first, and never more than there is room for.
    assert len(await journal.webhooks.due(clock.now(), 2, 3)) == 2


async def test_coordinators_share_the_work(url: str, journal: Journal, clock: ManualClock):
    second = await Journal.open(url, clock)
    try:
        for _ in range(20):
            await finished(journal, webhook=URL)
        taken = await asyncio.gather(
            *(j.webhooks.due(clock.now(), 3, 100) for _ in range(10) for j in (journal, second))
        )
    finally:
        await second.close()
    ids = [record.id for part in taken for record in part]
    assert len(ids) == len(set(ids)) == 20


async def test_a_url_that_is_none_still_lets_the_run_end(journal: Journal, clock: ManualClock):
    for url in ("not a url", "http://[::1", "http://"):
        await finished(journal, webhook=url)
    assert [record.host for record in await journal.webhooks.due(clock.now(), 10, 10)] == [""] * 3


async def test_a_deleted_run_takes_its_messages_along(journal: Journal):
    run = await finished(journal, webhook=URL)
    await journal.delete_run(TENANT, run.id)
    assert await journal.webhooks.next_due() is None
    await journal.create_run(a_run())
