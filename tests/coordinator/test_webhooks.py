"""Deliveries out of a real journal to a real server: every message gets there, or says why it did not."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.store.journal import Journal
from coordinator.store.library_records import WebhookRecord
from coordinator.store.webhooks import LEASE_S
from coordinator.webhook_post import Sender
from coordinator.webhooks import GATHER_S, PARALLEL, PER_HOST, POLL_S, Deliveries
from manta.clock import ManualClock
from manta.config import WebhookSettings
from manta.errors import NotFound
from manta.ids import RunId, Tenant
from tests.coordinator.receiver import Receiver, receiver
from tests.store.library_support import finished
from tests.store.support import TENANT

ATTEMPTS = 3


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture
async def journal(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Journal]:
    opened = await Journal.open(f"sqlite:///{tmp_path}/journal.db", clock)
    yield opened
    await opened.close()


async def run_body(tenant: Tenant, run: RunId) -> Any:
    return {"run_id": run, "tenant": tenant}


@pytest.fixture
async def deliveries(journal: Journal, clock: ManualClock) -> AsyncIterator[Deliveries]:
    made = deliveries_of(journal, clock)
    yield made
    await made.close()


def deliveries_of(journal: Journal, clock: ManualClock, body=run_body) -> Deliveries:
    sender = Sender(WebhookSettings(allowed_hosts=("127.0.0.1", "localhost")))
    return Deliveries(journal.webhooks, body, sender, clock, ATTEMPTS, random.Random(1))


async def message(journal: Journal, run: RunId) -> WebhookRecord:
    [found] = await journal.webhooks.list(TENANT, run)
    return found


async def until_delivered(journal: Journal, run: RunId) -> None:
    while (await message(journal, run)).state != "delivered":
        await asyncio.sleep(0)


async def step(deliveries: Deliveries, clock: ManualClock) -> float | None:
    """One look, and the end of what it began."""
    await deliveries.step(clock.now())
    await deliveries.settled()
    return await deliveries.step(clock.now())


async def test_the_run_is_posted_once(
    journal: Journal, clock: ManualClock, deliveries: Deliveries, there: Receiver
):
    assert await deliveries.step(clock.now()) is None
    run = await finished(journal, webhook=there.url("/ok"))

    assert await step(deliveries, clock) is None
    [came] = there.received
    sent = await message(journal, run.id)
    assert json.loads(came.body) == {"run_id": run.id, "tenant": TENANT}
    assert came.headers["webhook-id"] == sent.id
    assert came.headers["webhook-timestamp"] == str(int(clock.now()))
    assert (sent.state, sent.attempts) == ("delivered", 1)


async def test_a_refused_message_comes_again_later_under_the_same_id(
    journal: Journal, clock: ManualClock, deliveries: Deliveries, there: Receiver
):
    there.answers["/x"] = 500
    run = await finished(journal, webhook=there.url("/x"))
    delay = await step(deliveries, clock)
    waiting = await message(journal, run.id)
    assert (waiting.state, waiting.error["code"]) == ("pending", "webhook_refused")
    assert waiting.next_at == pytest.approx(clock.now() + delay)
    assert await deliveries.step(clock.now()) == delay

    there.answers["/x"] = 200
    await clock.advance(delay)
    assert await step(deliveries, clock) is None
    assert (await message(journal, run.id)).state == "delivered"
    first, second = there.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.headers["webhook-timestamp"] < second.headers["webhook-timestamp"]


async def test_after_the_last_try_it_is_given_up(
    journal: Journal, clock: ManualClock, deliveries: Deliveries, there: Receiver
):
    run = await finished(journal, webhook=there.url("/503"))
    for _ in range(ATTEMPTS):
        await clock.advance(await step(deliveries, clock) or 0)
    given_up = await message(journal, run.id)
    assert (given_up.state, given_up.attempts, len(there.received)) == ("failed", ATTEMPTS, ATTEMPTS)
    assert "503" in given_up.error["message"]


@pytest.mark.parametrize(
    ("path", "host", "code"),
    [("/410", "127.0.0.1", "webhook_refused"), ("/ok", "127.0.0.2", "blocked_address")],
)
async def test_some_answers_are_final(
    journal: Journal,
    clock: ManualClock,
    deliveries: Deliveries,
    there: Receiver,
    path: str,
    host: str,
    code: str,
):
    run = await finished(journal, webhook=there.url(path, host))
    assert await step(deliveries, clock) is None
    failed = await message(journal, run.id)
    assert (failed.state, failed.attempts, failed.error["code"]) == ("failed", 1, code)


async def test_a_url_that_is_none_is_given_up(journal: Journal, clock: ManualClock, deliveries: Deliveries):
    run = await finished(journal, webhook="not a url")
    assert await step(deliveries, clock) is None
    assert (await message(journal, run.id)).error["code"] == "invalid_input"


async def test_a_slow_host_holds_nobody_up(
    journal: Journal, clock: ManualClock, deliveries: Deliveries, there: Receiver
):
    for _ in range(3 * PER_HOST):
        await finished(journal, webhook=there.url("/hang", "localhost"))
    quick = [await finished(journal, webhook=there.url("/ok")) for _ in range(PER_HOST)]

    await deliveries.step(clock.now())
    await asyncio.to_thread(there.wait_for, 2 * PER_HOST)
    for run in quick:
        await until_delivered(journal, run.id)
    # The slow host's others wait for one of these to end, and more for quick ones gets through.
    assert await deliveries.step(clock.now()) == POLL_S
    late = await finished(journal, webhook=there.url("/ok"))
    await deliveries.step(clock.now())
    await until_delivered(journal, late.id)
    assert there.paths().count("/hang") == PER_HOST

    there.released.set()
    for _ in range(2):
        await deliveries.settled()
        await deliveries.step(clock.now())
    await deliveries.settled()
    assert there.paths().count("/hang") == 3 * PER_HOST


async def test_no_more_go_at_once_than_there_are_places(
    journal: Journal, clock: ManualClock, deliveries: Deliveries, there: Receiver
):
    for n in range(PARALLEL + 6):
        await finished(
            journal, webhook=there.url(f"/hang?{n}", "localhost") if n < 3 else f"http://127.0.0.1:1/{n}"
        )
    while await deliveries.step(clock.now()) == POLL_S:
        assert len(deliveries._under_way) <= PARALLEL
        await deliveries.settled()


async def until_received(there: Receiver, clock: ManualClock, count: int, step_s: float) -> None:
    """Lets time pass in steps until so many messages have come."""
    while len(there.received) < count:
        await clock.advance(step_s)
        await asyncio.sleep(0.001)


async def test_the_loop_delivers_when_it_is_woken_and_by_itself(
    journal: Journal, clock: ManualClock, deliveries: Deliveries, there: Receiver
):
    loop = asyncio.create_task(deliveries.run())
    try:
        while not clock.sleeping:
            await asyncio.sleep(0)
        await finished(journal, webhook=there.url("/first"))
        deliveries.wake()
        began = clock.now()
        await until_received(there, clock, 1, GATHER_S / 100)
        assert clock.now() - began < POLL_S, "it was told, and found it by looking"
        # Of one that another coordinator has queued nobody tells.
        await finished(journal, webhook=there.url("/second"))
        await until_received(there, clock, 2, POLL_S / 10)
    finally:
        loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop
    assert there.paths() == ["/first", "/second"]


async def test_the_loop_goes_on_after_a_lost_journal(
    journal: Journal, clock: ManualClock, there: Receiver, tmp_path: Path
):
    shut = await Journal.open(f"sqlite:///{tmp_path}/journal.db", clock)
    await shut.close()
    deliveries = deliveries_of(shut, clock)
    loop = asyncio.create_task(deliveries.run())
    while not clock.sleeping:
        await asyncio.sleep(0)
    await finished(journal, webhook=there.url("/ok"))
    deliveries._room = journal.webhooks
    await until_received(there, clock, 1, POLL_S)
    loop.cancel()
    await deliveries.close()


async def test_what_was_broken_off_is_due_again(
    journal: Journal, clock: ManualClock, deliveries: Deliveries, there: Receiver
):
    run = await finished(journal, webhook=there.url("/hang"))
    await deliveries.step(clock.now())
    await asyncio.to_thread(there.wait_for, 1)
    await deliveries.close()
    assert (await message(journal, run.id)).state == "pending"

    there.released.set()
    await clock.advance(LEASE_S)
    after = deliveries_of(journal, clock)
    await step(after, clock)
    await after.close()
    assert (await message(journal, run.id)).state == "delivered"
    assert len({came.headers["webhook-id"] for came in there.received}) == 1


async def test_one_whose_process_dies_every_time_is_given_up(
    journal: Journal, clock: ManualClock, deliveries: Deliveries, there: Receiver
):
    run = await finished(journal, webhook=there.url("/ok"))
    for _ in range(ATTEMPTS):
        assert await journal.webhooks.due(clock.now(), 1, 1)
        await clock.advance(LEASE_S)
    await step(deliveries, clock)
    lost = await message(journal, run.id)
    assert (lost.state, lost.error["code"], there.received) == ("failed", "webhook_lost", [])


@pytest.mark.parametrize(
    ("failure", "state", "code"),
    [(NotFound("gone"), "failed", "not_found"), (ZeroDivisionError("oops"), "pending", "webhook_defect")],
)
async def test_a_run_that_cannot_be_told_of(
    journal: Journal, clock: ManualClock, there: Receiver, failure: Exception, state: str, code: str
):
    async def body(tenant: Tenant, run: RunId) -> Any:
        raise failure

    deliveries = deliveries_of(journal, clock, body)
    run = await finished(journal, webhook=there.url("/ok"))
    await step(deliveries, clock)
    await deliveries.close()
    told = await message(journal, run.id)
    assert (told.state, told.error["code"], there.received) == (state, code, [])
