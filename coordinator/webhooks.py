"""Delivers webhooks out of the journal's outbox: at least once, with backoff, many hosts beside each other."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from coordinator.store.library_records import WebhookRecord
from coordinator.store.webhooks import Webhooks
from coordinator.webhook_post import Sender, next_delay, passing
from manta.clock import Clock
from manta.errors import MantaError, StorageUnavailable
from manta.faults import reach
from manta.ids import RunId, Tenant
from manta.telemetry import get_logger

PARALLEL = 64
PER_HOST = 4
"""Deliveries to one host that are begun at once: one that is slow leaves places for the others."""
POLL_S = 5.0
"""How often the outbox is looked at without being told: others write into it too."""
GATHER_S = 0.05
"""Between being told and looking: a look for each of many runs that end at once would cost more than it finds."""

Body: TypeAlias = Callable[[Tenant, RunId], Awaitable[Any]]
"""The run as plain JSON values, as `GET /runs/ID` tells it."""

logger = get_logger("webhooks")


class Deliveries:
    """Takes messages out of the outbox and sees each to its end. One per coordinator, on one event loop."""

    def __init__(
        self,
        room: Webhooks,
        body: Body,
        sender: Sender,
        clock: Clock,
        attempts: int,
        jitter: random.Random | None = None,
    ) -> None:
        self._room = room
        self._body = body
        self._sender = sender
        self._clock = clock
        self._attempts = attempts
        self._jitter = jitter or random.Random()
        self._under_way: dict[asyncio.Task[None], str] = {}
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Delivers until it is cancelled."""
        while True:
            self._woken.clear()
            try:
                delay = await self.step(self._clock.now())
            except StorageUnavailable as error:
                logger.warning("webhooks wait for the journal: %s", error)
                delay = None
            await self._pause(POLL_S if delay is None else min(delay, POLL_S))
            await self._clock.sleep(GATHER_S)

    def wake(self) -> None:
        """Something may have been queued. From this object's event loop only."""
        self._woken.set()

    async def step(self, now: float) -> float | None:
        """Begins what is due, as far as there are places, and does not wait for its end.

        Returns:
            Seconds until the next look, None when nothing is on its way. A delivery that ends wakes `run`.
        """
        upcoming = await self._room.next_due()
        if upcoming is not None and upcoming <= now and len(self._under_way) < PARALLEL:
            load = Counter(self._under_way.values())
            busy = [host for host, count in load.items() if count >= PER_HOST]
            for record in await self._room.due(now, PARALLEL - len(self._under_way), PER_HOST, busy):
                self._begin(record)
            upcoming = await self._room.next_due()
        if upcoming is None:
            return None
        # What is due and was not begun has no place before another delivery ends.
        return upcoming - now if upcoming > now else POLL_S

    async def settled(self) -> None:
        """Until every delivery that was begun has come to an end."""
        while self._under_way:
            await asyncio.wait(list(self._under_way))

    async def close(self) -> None:
        """Those under way are broken off; they are due again when their lease is over."""
        for task in list(self._under_way):
            task.cancel()
        await self.settled()
        await self._sender.close()

    def _begin(self, record: WebhookRecord) -> None:
        task = asyncio.create_task(self._deliver(record), name=f"webhook {record.id}")
        self._under_way[task] = record.host
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        self._woken.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a delivery was not noted; it is repeated", exc_info=error)

    async def _deliver(self, record: WebhookRecord) -> None:
        error = await self._trouble(record)
        if error is None:
            await self._room.delivered(record.id)
            reach("webhook.noted")
            return
        delay = next_delay(error, record.attempts, self._attempts, self._jitter)
        logger.warning(
            "webhook of run %s, try %d of %d: %s", record.run, record.attempts, self._attempts, error
        )
        at = None if delay is None else self._clock.now() + delay
        await self._room.failed(record.id, error.to_json(), at)

    async def _trouble(self, record: WebhookRecord) -> MantaError | None:
        if record.attempts > self._attempts:
            # Nobody noted how the earlier ones ended: they may be what ends the process.
            return MantaError("none of its deliveries came to an end", code="webhook_lost")
        try:
            content = await self._body(record.tenant, record.run)
            await self._sender.post(record.url, record.id, self._clock.now(), content)
            reach("webhook.sent")
        except MantaError as error:
            return error
        except Exception as error:
            logger.exception("webhook %s met a defect", record.id)
            return passing(f"{type(error).__name__}: {error}", "webhook_defect")
        return None

    async def _pause(self, seconds: float) -> None:
        waits = [
            asyncio.ensure_future(self._clock.sleep(seconds)),
            asyncio.ensure_future(self._woken.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            # Not one by one: this task's own cancellation could be taken for that of one of them.
            await asyncio.wait(waits)
