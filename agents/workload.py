"""The tasks an actor has taken, and the results that were not fetched yet. Ray-free: the actor is a thin shell.

Tasks come in bursts and go back in bursts, so they travel in lists: a call that brings some returns at once,
and one call waits for whatever is done next.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence, Sized
from dataclasses import dataclass, field
from typing import TypeAlias

from manta.clock import Clock, SystemClock
from manta.errors import MantaError, StepError
from manta.ids import RunId, StepKey
from manta.messages import Task, TaskResult
from manta.telemetry import get_logger

LONGEST_WAIT_S = 60.0
"""A call that waits for results returns after this with none: its caller may be gone, and nobody would tell."""
FORGOTTEN_S = 300.0
"""Results of a client that was not heard of for so long are dropped: it died, and another has its runs."""
TURNS_BETWEEN_RESULTS = 3
"""Turns of the event loop after which a short task that came in the same burst has ended too."""

TaskId: TypeAlias = tuple[RunId, StepKey, int, int]
Results: TypeAlias = list[tuple[TaskId, TaskResult]]

logger = get_logger("agents")


async def _those_that_end_with_it(results: Sized) -> None:
    """Returns when no more results come in from one turn of the event loop to the next.

    Tasks that came together and are short end together: one trip brings them all back.
    """
    seen = 0
    while len(results) > seen:
        seen = len(results)
        for _ in range(TURNS_BETWEEN_RESULTS):
            await asyncio.sleep(0)


def task_id(task: Task) -> TaskId:
    """What makes two tasks the same attempt at the same step."""
    scope = task.scope
    return scope.run, scope.step, scope.epoch, scope.attempt


@dataclass(slots=True)
class _Client:
    """One coordinator's process, as it is seen here."""

    results: dict[TaskId, TaskResult] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    heard_at: float = 0.0


class Workload:
    """Tasks of several clients at work side by side.

    Args:
        perform: does one task.
    """

    def __init__(
        self,
        perform: Callable[[Task], Awaitable[TaskResult]],
        *,
        clock: Clock | None = None,
        longest_wait_s: float = LONGEST_WAIT_S,
    ) -> None:
        self._perform = perform
        self._clock = clock or SystemClock()
        self._longest_wait_s = longest_wait_s
        self._clients: dict[str, _Client] = {}
        self._at_work: dict[TaskId, asyncio.Task[None]] = {}

    @property
    def busy(self) -> int:
        return len(self._at_work)

    def take(self, client: str, tasks: Sequence[Task]) -> None:
        """Begin each task. One that is at work here, or whose result waits to be fetched, is not begun again."""
        own = self._heard(client)
        for task in tasks:
            identity = task_id(task)
            if identity not in self._at_work and identity not in own.results:
                work = self._work(client, identity, task)
                self._at_work[identity] = asyncio.create_task(work, name=f"{identity[0]}/{identity[1]}")

    async def collect(self, client: str, fetched: Sequence[TaskId], tasks: Sequence[Task] = ()) -> Results:
        """The client's results: waits for the first, then returns all there are.

        They stay here until the client names them as fetched, so that none is lost on its way.

        Args:
            fetched: results that have arrived; they are forgotten here.
            tasks: begun first, as by `take`.
        """
        own = self._heard(client)
        for identity in fetched:
            own.results.pop(identity, None)
        self.take(client, tasks)
        if not own.results:
            own.news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._longest_wait_s):
                    await own.news.wait()
            await _those_that_end_with_it(own.results)
        own.heard_at = self._clock.monotonic()
        return list(own.results.items())

    async def cancel(self, run: RunId, step: StepKey) -> None:
        """Stop what is at work on a step, and return once it has stopped. It leaves no result."""
        stopped = [self._at_work.pop(known) for known in list(self._at_work) if known[:2] == (run, step)]
        for work in stopped:
            work.cancel()
        if stopped:
            await asyncio.wait(stopped)

    async def _work(self, client: str, identity: TaskId, task: Task) -> None:
        try:
            result = await self._perform(task)
        except MantaError as error:
            result = TaskResult(error=error.to_json())
        except Exception as error:
            logger.exception("the host of %s failed by a defect", task.agent)
            failed = StepError(f"{type(error).__name__}: {error}", fix="see `manta logs`")
            result = TaskResult(error=failed.to_json())
        if self._at_work.get(identity) is asyncio.current_task():
            del self._at_work[identity]
            own = self._clients.setdefault(client, _Client())
            own.results[identity] = result
            own.news.set()

    def _heard(self, name: str) -> _Client:
        now = self._clock.monotonic()
        client = self._clients.get(name)
        if client is None:
            silent = [key for key, known in self._clients.items() if now - known.heard_at > FORGOTTEN_S]
            for key in silent:
                del self._clients[key]
            client = self._clients[name] = _Client()
        client.heard_at = now
        return client
