"""A coordinator in a process of its own, that can be killed at a named point, stopped, and asked like an actor."""

import asyncio
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from coordinator import chores, live_runs
from coordinator.service import CoordinatorService
from coordinator.store import webhooks
from manta.clock import SystemClock
from manta.config import CoordinatorSettings, LimitSettings, WebhookSettings
from manta.errors import CoordinatorUnavailable, MantaError, StaleEpoch
from manta.faults import note_side_effect
from manta.messages import CallIntent, CallOutcome, RecordedCall
from tests.faults import world

# Forked from one process that has imported everything: starting an interpreter takes longer than a run.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.faults.process"])


@dataclass(frozen=True)
class Options:
    """How a process is started. `environment`: where it is to die, and where its ledger lies."""

    folder: Path
    url: str
    name: str = "one"
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: LimitSettings = field(default_factory=LimitSettings)
    settings: CoordinatorSettings = field(default_factory=CoordinatorSettings)
    webhook_lease_s: float = webhooks.LEASE_S


class Process:
    """The parent's side. Calls raise CoordinatorUnavailable once it is dead."""

    def __init__(self, options: Options) -> None:
        self.name = options.name
        self._connection, its_end = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_serve, args=(its_end, options), daemon=True)
        self._process.start()
        its_end.close()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._count = 0
        self.dead = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._connection.fileno(), self._read)

    async def call(self, method: str, *arguments: Any) -> Any:
        if self.dead.is_set():
            raise CoordinatorUnavailable(f"the process {self.name} is dead")
        self._count += 1
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[self._count] = answer
        try:
            self._connection.send((self._count, method, arguments))
        except OSError:
            self._bury()
        return await answer

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    async def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
        await self.dead.wait()

    async def end(self) -> int:
        """Ask it to close and to end; returns its exit status."""
        if not self.dead.is_set():
            answer = asyncio.ensure_future(self.call("close"))
            await self.dead.wait()
            await asyncio.gather(answer, return_exceptions=True)
        return self.exit_status

    @property
    def exit_status(self) -> int:
        self._process.join(30)
        assert self._process.exitcode is not None
        return self._process.exitcode

    def _read(self) -> None:
        try:
            number, value, error = self._connection.recv()
        except (EOFError, OSError):
            self._bury()
            return
        answer = self._answers.pop(number)
        if answer.done():
            return
        if error is None:
            answer.set_result(value)
        else:
            answer.set_exception(error)

    def _bury(self) -> None:
        if self.dead.is_set():
            return
        asyncio.get_running_loop().remove_reader(self._connection.fileno())
        self._connection.close()
        self.dead.set()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(CoordinatorUnavailable(f"the process {self.name} died"))
        self._answers.clear()


class _CallLog:
    """The service's record, and a note of what it refuses: a zombie's late writes."""

    def __init__(self) -> None:
        self.service: CoordinatorService

    async def begin(self, intent: CallIntent) -> RecordedCall | None:
        try:
            return await self.service.begin_call(intent)
        except StaleEpoch:
            note_side_effect("refused", run=intent.scope.run, epoch=intent.scope.epoch)
            raise

    async def finish(self, outcome: CallOutcome) -> None:
        try:
            await self.service.finish_call(outcome)
        except StaleEpoch:
            note_side_effect("refused", run=outcome.scope.run, epoch=outcome.scope.epoch)
            raise


def _serve(connection: Connection, options: Options) -> None:
    os.environ.update(options.environment)
    logging.basicConfig(filename=options.folder / f"{options.name}.log", level=logging.INFO)
    webhooks.LEASE_S = options.webhook_lease_s
    # What is only a matter of patience.
    chores.LOOK_S, live_runs.THREAD_RETRY_S = 0.2, 0.2
    asyncio.run(_work(connection, options))


async def _work(connection: Connection, options: Options) -> None:
    log = _CallLog()
    service = CoordinatorService(
        options.url,
        world.runtime(options.folder, log),
        world.graphs(),
        world.NAMES,
        SystemClock(),
        options.name,
        limits=options.limits,
        settings=options.settings,
        webhooks=WebhookSettings(allowed_hosts=("127.0.0.1",)),
    )
    log.service = service
    service.ensure_started()
    over = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    async def answer(number: int, method: str, arguments: tuple[Any, ...]) -> None:
        try:
            if method == "close":
                await service.close()
                over.set()
            await service.started()
            value, error = await _called(service, method, arguments), None
        except MantaError as raised:
            value, error = None, raised
        if not over.is_set():
            connection.send((number, value, error))

    def read() -> None:
        try:
            task = asyncio.create_task(answer(*connection.recv()))
        except EOFError:
            os._exit(0)  # Nobody is there any more.
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    asyncio.get_running_loop().add_reader(connection.fileno(), read)
    await over.wait()
    asyncio.get_running_loop().remove_reader(connection.fileno())


async def _called(service: CoordinatorService, method: str, arguments: tuple[Any, ...]) -> Any:
    if method == "close":
        return None
    if method == "search":
        return await service.search(arguments[0], **arguments[1])
    answer = getattr(service, method)(*arguments)
    return await answer if asyncio.iscoroutine(answer) else answer


async def until(condition: Any, what: str, seconds: float = 60) -> Any:
    """Wait for something that another process brings about."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} did not happen in {seconds} s"
        await asyncio.sleep(0.01)
    return found
