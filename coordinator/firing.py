"""Makes the runs of schedules whose time has come."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from coordinator.schedules import due_time, next_time, run_key
from coordinator.store.library_records import ScheduleRecord
from coordinator.store.schedules import Schedules
from manta.errors import MantaError
from manta.faults import reach
from manta.ids import RunId
from manta.telemetry import get_logger

BATCH = 100
RETRY_S = 5.0
"""Seconds until a run that could not be taken now is tried again."""

Submit: TypeAlias = Callable[[ScheduleRecord, str], Awaitable[RunId]]
"""Makes the schedule's run under an idempotency key; the same key again gives the same run."""

logger = get_logger("schedules")


async def fire_due(room: Schedules, submit: Submit, now: float) -> float | None:
    """Makes what is due; several coordinators may do so at once.

    Returns:
        Seconds until the next look, None when no schedule is enabled.

    Raises:
        StorageUnavailable: the journal cannot be used; what is due stays so.
    """
    due = await room.due(now, BATCH)
    held_back = [schedule for schedule in due if not await _fire(room, submit, schedule, now)]
    if held_back:
        return RETRY_S
    upcoming = await room.next_due()
    return None if upcoming is None else max(0.0, upcoming - now)


async def _fire(room: Schedules, submit: Submit, schedule: ScheduleRecord, now: float) -> bool:
    """False when it has to be tried again."""
    assert schedule.next_at is not None, "only enabled ones are due"
    at, upcoming = schedule.next_at, None
    try:
        at = due_time(schedule.cron, schedule.timezone, schedule.next_at, now)
        upcoming = next_time(schedule.cron, schedule.timezone, now)
        run = await submit(schedule, run_key(schedule.id, at))
        reach("schedule.run_made")
    except MantaError as error:
        if error.retryable:
            logger.warning("schedule %s waits: %s", schedule.id, error)
            return False
        # The graph may be back at the next time. Without one (its time zone is gone) it rests.
        logger.error("schedule %s made no run: %s", schedule.id, error)
        await room.failed(schedule.tenant, schedule.id, at, upcoming, error.to_json())
        return True
    await room.fired(schedule.tenant, schedule.id, at, upcoming, run)
    return True
