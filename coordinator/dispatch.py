"""Handing tasks to one actor of a pool, many at a time: a burst goes out in one call, and one call that waits
brings back whatever is done. Ray-free: the actor is behind a `Link`.
"""

import asyncio
import copy
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from agents.workload import Results, TaskId, task_id
from manta.clock import Clock, SystemClock
from manta.errors import MantaError
from manta.ids import RunId, StepKey
from manta.messages import Task, TaskResult
from manta.telemetry import get_logger

COME_BACK_S = 5.0
"""Seconds between two looks for an actor that does not come back."""

logger = get_logger("coordinator")


class Link(Protocol):
    """The way to one actor. Where it died, or its answer was lost: Unavailable, code `agent_lost`."""

    async def open(self) -> None:
        """Returns once the actor is there, again too after it was lost."""
        ...

    async def take(self, tasks: Sequence[Task]) -> None:
        """See `agents.workload.Workload.take`."""
        ...

    async def collect(self, fetched: Sequence[TaskId], tasks: Sequence[Task]) -> Results:
        """See `agents.workload.Workload.collect`."""
        ...

    def cancel(self, run: RunId, step: StepKey) -> None:
        """Stop the work on a step; tells nobody whether it arrived."""
        ...


class Member:
    """One actor of a pool, as the coordinator sees it. One that was lost is waited for in the background."""

    def __init__(self, link: Link, clock: Clock | None = None) -> None:
        self._link = link
        self._clock = clock or SystemClock()
        self._open = False
        self._opening = asyncio.Lock()
        self._pending: dict[TaskId, asyncio.Future[TaskResult]] = {}
        self._gathered: list[Task] = []
        self._fetched: list[TaskId] = []
        self._collector: asyncio.Task[None] | None = None
        self._others: set[asyncio.Task[None]] = set()
        self.busy = 0
        """Tasks given to it that have not ended."""
        self.lost = False
        """Whether it died and was not heard of since."""

    async def open(self) -> None:
        """Returns once the actor is there. Raises Unavailable, code `agent_lost`, when it does not come back."""
        async with self._opening:
            if not self._open:
                await self._link.open()
                self._open, self.lost = True, False

    async def perform(self, task: Task) -> TaskResult:
        """The task's result. Cancelling this cancels the work.

        Raises:
            Unavailable: code `agent_lost`, the actor died; what it did until then is in the journal.
        """
        self.busy += 1
        try:
            if not self._open:
                # A task that is sent to an actor on its way back would only cost an attempt.
                await self.open()
            return await self._result_of(task)
        finally:
            self.busy -= 1

    async def _result_of(self, task: Task) -> TaskResult:
        loop = asyncio.get_running_loop()
        identity = task_id(task)
        result: asyncio.Future[TaskResult] = loop.create_future()
        self._pending[identity] = result
        if not self._gathered:
            # What becomes ready in the same turn of the loop goes along.
            loop.call_soon(self._send)
        self._gathered.append(task)
        try:
            return await result
        except asyncio.CancelledError:
            if task in self._gathered:
                self._gathered.remove(task)
            else:
                self._link.cancel(task.scope.run, task.scope.step)
            raise
        finally:
            self._pending.pop(identity, None)

    def _send(self) -> None:
        tasks, self._gathered = self._gathered, []
        if not tasks:
            return
        if self._collector is None:
            self._collector = asyncio.create_task(self._collect(tasks))
        else:
            self._beside(self._take(tasks))

    async def _take(self, tasks: Sequence[Task]) -> None:
        try:
            await self._link.take(self._wanted(tasks))
        except Exception as error:
            self._lose([task_id(task) for task in tasks], error)

    async def _collect(self, tasks: Sequence[Task]) -> None:
        """Fetch results as long as any are awaited."""
        try:
            while self._pending:
                results = await self._link.collect(self._fetched, self._wanted(tasks))
                tasks = ()
                self._fetched = [identity for identity, _ in results]
                for identity, result in results:
                    awaited = self._pending.pop(identity, None)
                    if awaited is not None and not awaited.done():
                        awaited.set_result(result)
        except Exception as error:
            self._lose(list(self._pending), error)
        finally:
            self._collector = None

    def _wanted(self, tasks: Sequence[Task]) -> list[Task]:
        """Without those that were cancelled since they were gathered."""
        return [task for task in tasks if task_id(task) in self._pending]

    def _lose(self, tasks: Sequence[TaskId], error: Exception) -> None:
        """The error is that of each of these tasks; others of the pool are better asked until the actor is back."""
        self._open = False
        if not self.lost:
            self.lost = True
            self._beside(self._come_back())
        for identity in tasks:
            awaited = self._pending.pop(identity, None)
            if awaited is not None and not awaited.done():
                # A copy each: an exception gathers the frames it passes.
                awaited.set_exception(copy.copy(error) if isinstance(error, MantaError) else error)

    async def _come_back(self) -> None:
        while self.lost:
            try:
                await self.open()
            except MantaError as error:
                logger.warning("%s; waiting for it", error)
                await self._clock.sleep(COME_BACK_S)

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        # The loop itself holds tasks but weakly.
        self._others.add(task)
        task.add_done_callback(self._others.discard)
