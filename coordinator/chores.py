"""What a coordinator does beside driving runs: it fires schedules and delivers webhooks."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from coordinator.firing import fire_due
from coordinator.store.journal import Journal
from coordinator.store.library_records import ScheduleRecord
from coordinator.submission import Submission
from coordinator.webhook_post import Sender, signing_keys
from coordinator.webhooks import Body, Deliveries
from manta.clock import Clock
from manta.config import WebhookSettings
from manta.errors import MantaError
from manta.ids import RunId
from manta.telemetry import get_logger

LOOK_S = 5.0
"""How often schedules are looked at without being told: others may have made some."""

logger = get_logger("coordinator")


class Chores:
    """Runs until it is closed. Making it raises InvalidConfig when the secret of webhooks is not there."""

    def __init__(
        self,
        journal: Journal,
        submit: Callable[[Submission], Awaitable[Any]],
        body: Body,
        settings: WebhookSettings,
        clock: Clock,
    ) -> None:
        self._journal = journal
        self._submit = submit
        self._clock = clock
        self._deliveries = Deliveries(
            journal.webhooks, body, Sender(settings, signing_keys(settings)), clock, settings.attempts
        )
        self._jobs: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for work in (self._fire_schedules(), self._deliveries.run()):
            self._jobs.append(asyncio.create_task(_logged(work)))

    def run_ended(self) -> None:
        """A run is over: there may be a webhook to deliver."""
        self._deliveries.wake()

    async def close(self) -> None:
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        await self._deliveries.close()

    async def _fire_schedules(self) -> None:
        while True:
            try:
                delay = await fire_due(self._journal.schedules, self._fire, self._clock.now())
            except MantaError as error:
                logger.warning("schedules wait: %s", error)
                delay = None
            await self._clock.sleep(LOOK_S if delay is None else min(delay, LOOK_S))

    async def _fire(self, schedule: ScheduleRecord, key: str) -> RunId:
        submission = Submission(
            schedule.graph,
            schedule.input,
            schedule.tenant,
            schedule.principal,
            {**schedule.metadata, "schedule": schedule.id},
            idempotency_key=key,
        )
        run: RunId = (await self._submit(submission)).id
        return run


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        logger.exception("a chore of the coordinator stopped by a defect")
        raise
