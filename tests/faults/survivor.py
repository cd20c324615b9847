"""A coordinator's process that is started again whenever it has died, and a client that repeats what got no answer."""

import asyncio
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from manta.errors import CoordinatorUnavailable
from tests.faults.oracle import Call, calls_in_flight
from tests.faults.process import Options, Process


@dataclass(frozen=True)
class Death:
    """`at`: the kill point and which time it was met; `in_flight`: the calls that were begun and had no outcome."""

    at: str
    in_flight: Sequence[Call]


class Survivor:
    """Dies at each of `kills` in turn, `point:occurrence`; after the last one it lives."""

    def __init__(self, options: Options, ledger: Path, kills: Sequence[str] = ()) -> None:
        self._options = options
        self._ledger = ledger
        self._kills = list(kills)
        self.deaths: list[Death] = []
        self._at = ""
        self._reviving = asyncio.Lock()
        self._process = self._start()

    async def call(self, method: str, *arguments: Any) -> Any:
        """Asked again after a death: every method used here may be repeated."""
        while True:
            try:
                return await self.ask(method, *arguments)
            except CoordinatorUnavailable:
                continue

    async def ask(self, method: str, *arguments: Any) -> Any:
        """Asked once. Raises CoordinatorUnavailable when it died meanwhile; it is alive again then."""
        process = self._process
        try:
            return await process.call(method, *arguments)
        except CoordinatorUnavailable:
            if process.dead.is_set():
                await self._revive(process)
            raise

    async def end(self) -> int:
        return await self._process.end()

    async def _revive(self, dead: Process) -> None:
        async with self._reviving:
            if self._process is dead:
                assert dead.exit_status == -signal.SIGKILL
                self.deaths.append(Death(self._at, calls_in_flight(self._options.url, dead.name)))
                self._process = self._start()

    def _start(self) -> Process:
        self._at = self._kills.pop(0) if self._kills else ""
        environment: Mapping[str, str] = {"MANTA_LEDGER": str(self._ledger), "MANTA_KILL_AT": self._at}
        return Process(replace(self._options, environment=environment))
