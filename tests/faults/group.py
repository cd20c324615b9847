"""Several coordinators' processes on one journal, and a client that asks whichever answers."""

import asyncio
import itertools
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manta.config import CoordinatorSettings, LimitSettings
from manta.errors import CoordinatorUnavailable, Unavailable
from tests.faults.oracle import Request, calls_in_flight
from tests.faults.process import Options, Process

LEASE_S = 1.5
PATIENCE_S = 60.0


class Group:
    """Processes by name. `killed` are the calls that were in flight when one of them died."""

    def __init__(self, folder: Path, url: str, ledger: Path, limits: LimitSettings | None = None) -> None:
        self._folder = folder
        self.url = url
        self.ledger = ledger
        self._limits = limits or LimitSettings()
        self.members: dict[str, Process] = {}
        self.killed: list[Request] = []
        self._frozen: set[str] = set()
        self._turns = itertools.count()

    def start(self, name: str, kill_at: str = "") -> Process:
        environment = {"MANTA_LEDGER": str(self.ledger), "MANTA_KILL_AT": kill_at}
        settings = CoordinatorSettings(lease_s=LEASE_S)
        options = Options(self._folder, self.url, name, environment, self._limits, settings, 0.5)
        self.members[name] = Process(options)
        return self.members[name]

    async def call(self, method: str, *arguments: Any) -> Any:
        """From one after the other until one answers; every method used here may be repeated."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await self.ask(method, *arguments)
            except CoordinatorUnavailable:
                await asyncio.sleep(0.02)
            except Unavailable:
                # A journal that is away; whether it was written is not known either.
                await asyncio.sleep(0.2)
            assert time.monotonic() < deadline, f"nobody answered to {method}"

    async def ask(self, method: str, *arguments: Any) -> Any:
        awake = [name for name in self.members if name not in self._frozen]
        if not awake:
            raise CoordinatorUnavailable("nobody is there")
        return await self.members[awake[next(self._turns) % len(awake)]].call(method, *arguments)

    async def kill(self, name: str) -> None:
        await self.members[name].kill()
        self.bury(name)

    def bury(self, name: str) -> None:
        """One that has died, by whatever."""
        self.killed += [call.request for call in calls_in_flight(self.url, name)]
        del self.members[name]

    def freeze(self, name: str) -> None:
        """It stands still, and does not know it."""
        self._frozen.add(name)
        self.members[name].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self.members[name].send_signal(signal.SIGCONT)
        self._frozen.discard(name)

    async def end(self) -> Sequence[int]:
        return [await member.end() for member in self.members.values()]
