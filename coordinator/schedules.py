"""When a schedule's runs are due: cron expressions in a time zone, with its summer time. Pure.

As in Debian's cron, a fixed time that the clocks skip comes right after the gap, and one that they repeat
comes once; expressions with a star for minute or hour go by elapsed time.
"""

from collections.abc import Iterator
from datetime import datetime
from itertools import takewhile
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from manta.errors import InvalidInput


def normalised(cron: str) -> str:
    """The expression with single spaces. Raises InvalidInput unless it has five fields of cron."""
    fields = cron.split()
    if len(fields) != 5:
        raise _bad_cron(cron, f"it has {len(fields)} fields")
    return " ".join(fields)


def next_time(cron: str, timezone: str, after: float) -> float:
    """The first time after `after`, both in seconds since the epoch.

    Raises:
        InvalidInput: no such time zone, no cron expression, or one that never comes.
    """
    for at in _times(cron, timezone, after):
        # In the hour that clocks repeat, the next wall time may lie in its first half.
        if at > after:
            return at
    raise _bad_cron(cron, "it never comes")


def due_time(cron: str, timezone: str, next_at: float, now: float) -> float:
    """Of the times from `next_at` to `now` the latest: earlier ones were missed, and are not made up for.

    `next_at`, which is not after `now`, is a time of this expression.
    """
    near = max(next_at, _last_before(cron, timezone, now + 1) or next_at)
    return max((near, *takewhile(lambda at: at <= now, _times(cron, timezone, near))))


def run_key(schedule: str, at: float) -> str:
    """The idempotency key of the run that a schedule makes at a time: nobody makes it twice."""
    return f"schedule:{schedule}:{int(at)}"


def _times(cron: str, timezone: str, after: float) -> Iterator[float]:
    return (moment.timestamp() for moment in _simulated(cron, timezone, after))


def _last_before(cron: str, timezone: str, moment: float) -> float | None:
    """A time before `moment`, and the latest one except where clocks are set back."""
    found = next(_simulated(cron, timezone, moment, back=True), None)
    return None if found is None else found.timestamp()


def _simulated(cron: str, timezone: str, start: float, *, back: bool = False) -> Iterator[datetime]:
    try:
        return iter(CronSim(normalised(cron), datetime.fromtimestamp(start, _zone(timezone)), reverse=back))
    except (CronSimError, ValueError) as error:
        raise _bad_cron(cron, str(error)) from error


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput(
            f"there is no time zone {name[:60]!r}", fix="use an IANA name: Europe/Berlin, or UTC"
        ) from error


def _bad_cron(cron: str, cause: str) -> InvalidInput:
    return InvalidInput(
        f"{cron[:60]!r} is no cron expression: {cause}",
        fix="five fields: minute, hour, day of month, month, day of week; 30 7 * * MON-FRI",
    )
