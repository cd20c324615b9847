"""What a coordinator looks after without being asked: its lease, runs of the dead, runs whose time has come."""

from coordinator.live_runs import LiveRuns
from coordinator.store.journal import Journal
from coordinator.store.records import RunBrief
from manta.clock import Clock
from manta.errors import MantaError, NotFound
from manta.faults import reach
from manta.telemetry import get_logger

PERIOD_S = 1.0
PAGE = 5000
FULL_LOOK_EVERY = 30
"""Rounds between two looks at the whole queue; those between ask only for what is new."""

logger = get_logger("coordinator")


class Vigil:
    """One per coordinator. Where the journal is not shared, most of it is looked at only now and then."""

    def __init__(self, journal: Journal, live: LiveRuns, clock: Clock, name: str, lease_s: float) -> None:
        self._journal = journal
        self._live = live
        self._clock = clock
        self._name = name
        self._lease_s = lease_s
        self._newest = 0
        self._clock_is = clock.now() - clock.monotonic()
        self._trusts_leases_at = clock.monotonic()

    async def keep(self) -> None:
        """Goes round until it is cancelled; a journal that cannot be reached is asked again."""
        rounds = 0
        while True:
            await self._clock.sleep(min(PERIOD_S, self._lease_s / 3))
            rounds += 1
            try:
                self._check_clock()
                if self._journal.shared:
                    await self._journal.renew(self._name, self._clock.now() + self._lease_s)
                    reach("coordinator.lease_renewed")
                await self._look(everything=rounds % FULL_LOOK_EVERY == 0)
            except MantaError as error:
                logger.warning("looking after runs: %s", error)
            except Exception:
                # Without it this coordinator would lose its runs and take up none: a defect must not end it.
                logger.exception("looking after runs met a defect")

    async def look_at_all(self) -> None:
        """All that can be driven: at the start, and now and then."""
        await self._look(everything=True)

    async def _look(self, *, everything: bool) -> None:
        if everything or self._journal.shared:
            await self._take_up(own=everything)
            await self._look_at_queue(0 if everything else self._newest)
            await self._look_at_flags()
        for brief in await self._journal.due(self._clock.now(), PAGE):
            self._live.offer(brief)
        await self._look_at_threads()

    async def _take_up(self, *, own: bool) -> None:
        """Runs whose owner is gone, and `own` ones that nobody drives."""
        if self._clock.monotonic() < self._trusts_leases_at:
            return
        for brief in await self._journal.takeable(self._name, PAGE, own=own):
            if not self._live.drives(brief.id):
                logger.info("taking up run %s", brief.id)
                self._live.offer(brief)

    async def _look_at_flags(self) -> None:
        """What other coordinators were asked of our runs."""
        for run in await self._journal.flags(self._name):
            executor = self._live.executor(run.id)
            if executor is not None:
                executor.cancel() if run.cancel_requested else executor.decided()

    def _check_clock(self) -> None:
        """After the time of day was set, leases mean nothing until the living have renewed theirs."""
        clock_is = self._clock.now() - self._clock.monotonic()
        if abs(clock_is - self._clock_is) > self._lease_s / 2:
            logger.warning("the clock was set by %+.0f s", clock_is - self._clock_is)
            self._trusts_leases_at = self._clock.monotonic() + self._lease_s
        self._clock_is = clock_is

    async def _look_at_threads(self) -> None:
        for tenant, run in self._live.contested:
            try:
                status, _ = await self._journal.run_state(tenant, run)
            except NotFound:
                status = "deleted"
            if status != "waiting":
                self._live.rests_no_more(run)

    async def _look_at_queue(self, after: int) -> None:
        while True:
            page: list[RunBrief] = await self._journal.queued(after, PAGE)
            for brief in page:
                self._live.offer(brief)
                after = brief.number
            self._newest = max(self._newest, after)
            if len(page) < PAGE:
                return
