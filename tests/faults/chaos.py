"""The long form: several coordinators on a PostgreSQL, users who keep coming, and faults at random.

    python -m tests.faults.chaos --rounds 5 --seconds 60 --seed 7

Processes die by SIGKILL at random moments and at random kill points, stand still beyond their lease, and PostgreSQL
is stopped with `-m immediate` every 5 to 40 seconds. After each round an oracle judges from the journal and the
ledger. A seed repeats the choice of faults, not their timing.
"""

import argparse
import asyncio
import contextlib
import logging
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from manta.faults import KILL_POINTS, read_ledger
from tests.faults import world
from tests.faults.group import LEASE_S, Group
from tests.faults.hook import Hook
from tests.faults.oracle import read_stories, violations
from tests.faults.script import Visit, patiently, undelivered
from tests.store.support import Postgres, postgres_server

MEMBERS = ("one", "two", "three")
POINTS = [point for point in KILL_POINTS if not point.startswith("replica.")]
PATIENCE_S = 300.0
SHOWN = 20


@dataclass
class Round:
    """What happened, and what came of it."""

    number: int
    seconds: float = 0.0
    runs: int = 0
    calls: int = 0
    again: int = 0
    """Calls that were made more than once."""
    faults: Counter[str] = field(default_factory=Counter)
    points: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)


class Chaos:
    """One round: a journal, its coordinators, and whoever troubles them until `end`."""

    def __init__(
        self,
        folder: Path,
        postgres: Postgres,
        number: int,
        seed: int,
        seconds: float,
        met: Collection[str] = (),
    ) -> None:
        self._chance = random.Random(f"{seed}/{number}")
        self._folder = folder
        # Those that no round has met yet come first.
        self._points = [point for point in POINTS if point not in met] or POINTS
        self._postgres = postgres
        self._url = postgres.database()
        self._ledger = folder / "ledger.jsonl"
        self._group = Group(folder, self._url, self._ledger)
        self._kill_points: dict[str, str] = {}
        self._end = time.monotonic() + seconds
        self._server_up = asyncio.Event()
        self._server_up.set()
        self.round = Round(number)

    async def run(self) -> Round:
        began = time.monotonic()
        for name in MEMBERS:
            self._start(name)
        async with Hook() as hook:
            trouble = [
                asyncio.create_task(work) for work in (self._kill(), self._freeze(), self._stop_server())
            ]
            keeper = asyncio.create_task(self._keep())
            users = [self._users(tenant, n, hook.url) for tenant in world.TENANTS for n in range(2)]
            visits = [visit for some in await asyncio.gather(*users) for visit in some]
            await asyncio.gather(*trouble)
            while await patiently(undelivered, self._url):
                await asyncio.sleep(0.1)
            keeper.cancel()
            await self._group.end()
            self._judge(visits, hook)
        self.round.seconds = time.monotonic() - began
        return self.round

    def _judge(self, visits: Sequence[Visit], hook: Hook) -> None:
        told, stories, ledger = self.round, read_stories(self._url), read_ledger(self._ledger)
        acknowledged = [(visit.tenant, run) for visit in visits for run in visit.runs.values()]
        made = Counter((line["run"], line["step"], line["hash"]) for line in ledger if line["kind"] == "call")
        told.runs, told.calls = len(stories), len(made)
        told.again = sum(times > 1 for times in made.values())
        told.wrong += violations(stories, acknowledged, ledger, zombies=bool(told.faults["standstill"]))
        hooked = {run for visit in visits for name, run in visit.runs.items() if name != "fork"}
        told.wrong += [f"run {run} was not told of" for run in hooked - set(hook.told)]
        if told.wrong:
            (self._folder / "stories.txt").write_text("\n\n".join(str(story) for story in stories))

    async def _users(self, tenant: world.Tenant, number: int, hook: str) -> list[Visit]:
        """They come until the time is over, and stay until all they wanted is done."""
        visits: list[Visit] = []
        while time.monotonic() < self._end:
            prefix = f"{number}-{len(visits)}-"
            visits.append(Visit(self._group, tenant, self._ledger, hook, prefix, PATIENCE_S))
            try:
                await visits[-1].everything(self._url)
            except (AssertionError, TimeoutError) as error:
                self.round.wrong.append(f"a user of {tenant} saw: {str(error)[:200]}")
        return visits

    async def _kill(self) -> None:
        while await self._pause(5, 15):
            name = self._chance.choice(MEMBERS)
            member = self._group.members.get(name)
            if member is not None and not member.dead.is_set():
                self.round.faults["SIGKILL"] += 1
                self._kill_points[name] = ""
                await member.kill()

    async def _freeze(self) -> None:
        while await self._pause(5, 15):
            name = self._chance.choice(MEMBERS)
            if name not in self._group.members or self._group.members[name].dead.is_set():
                continue
            self.round.faults["standstill"] += 1
            self._group.freeze(name)
            await asyncio.sleep(LEASE_S + self._chance.uniform(0.5, 3))
            self._group.thaw(name)

    async def _stop_server(self) -> None:
        while await self._pause(5, 40):
            self.round.faults["outage"] += 1
            self._server_up.clear()
            await asyncio.to_thread(self._postgres.stop)
            await asyncio.sleep(self._chance.uniform(0, 8))
            await asyncio.to_thread(self._postgres.start)
            self._server_up.set()

    async def _keep(self) -> None:
        """Start again what has died."""
        while True:
            for name in MEMBERS:
                if self._group.members[name].dead.is_set():
                    if self._kill_points[name]:
                        self.round.faults["kill point"] += 1
                        self.round.points.add(self._kill_points[name].partition(":")[0])
                    self._start(name)
            await asyncio.sleep(0.05)

    def _start(self, name: str) -> None:
        at = ""
        if self._chance.random() < 0.8 and time.monotonic() < self._end:
            at = f"{self._chance.choice(self._points)}:{self._chance.randint(1, 4)}"
        self._kill_points[name] = at
        self._group.start(name, at)

    async def _pause(self, least_s: float, most_s: float) -> bool:
        """False when the time is over."""
        await asyncio.sleep(self._chance.uniform(least_s, most_s))
        return time.monotonic() < self._end


HEAD = ("round", "seconds", "runs", "calls", "again", "killed", "at points", "frozen", "outages", "wrong")


def table(rounds: Sequence[Round]) -> str:
    rows = [HEAD, *(_row(each) for each in rounds)]
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(str(cell).rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def _row(told: Round) -> tuple[object, ...]:
    faults = told.faults
    at_points = f"{faults['kill point']} ({len(told.points)})"
    counts = (faults["SIGKILL"], at_points, faults["standstill"], faults["outage"])
    return (told.number, f"{told.seconds:.0f}", told.runs, told.calls, told.again, *counts, len(told.wrong))


async def main(rounds: int, seconds: float, seed: int) -> int:
    told: list[Round] = []
    points: set[str] = set()
    # It stops a server that has been stopped, and complains.
    logging.getLogger("pgserver").setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(postgres_server())
        for number in range(rounds):
            print(f"round {number}: seed {seed}/{number}", flush=True)
            folder = Path(tempfile.mkdtemp(prefix="chaos-"))
            told.append(await Chaos(folder, server, number, seed, seconds, points).run())
            points |= told[-1].points
            for wrong in told[-1].wrong[:SHOWN]:
                print(f"  {wrong}", flush=True)
            if told[-1].wrong:
                print(f"  see {folder}", flush=True)
            else:
                shutil.rmtree(folder)
    print(table(told))
    missed = ", ".join(point for point in POINTS if point not in points)
    print(f"{len(points)} of {len(POINTS)} kill points were met" + (f"; not {missed}" if missed else ""))
    wrong = sum(len(each.wrong) for each in told)
    print(f"seed {seed}: " + (f"{wrong} violations" if wrong else "nothing lost, nothing done twice"))
    return 1 if wrong else 0


if __name__ == "__main__":
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=60.0, help="how long users come in each round")
    options.add_argument("--seed", type=int, default=None)
    given = options.parse_args()
    chosen = given.seed if given.seed is not None else random.SystemRandom().randrange(10**6)
    sys.exit(asyncio.run(main(given.rounds, given.seconds, chosen)))
