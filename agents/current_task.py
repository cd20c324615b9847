"""The task at work here, for code that is handed no context: a node of a LangGraph graph, a tool within it."""

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from manta.errors import MantaError, PlatformError, RunCancelled
from manta.protocols import AgentContext

T = TypeVar("T")


class CurrentTask:
    """A task's context and the event loop it lives on, as long as the task is at work."""

    def __init__(self, context: AgentContext) -> None:
        self.context = context
        self._loop = asyncio.get_running_loop()
        self._stopped: MantaError | None = None
        self._pending: set[Future[Any]] = set()

    def check(self) -> None:
        """Raises what ended the task: no call may follow it, whatever the code above made of the error."""
        if self._stopped is not None:
            raise self._stopped

    def stop(self, error: MantaError) -> None:
        """Refuse all further calls, and cancel those that threads of this task wait for."""
        self._stopped = self._stopped or error
        for future in list(self._pending):
            future.cancel()

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the task's loop for code in a thread, and wait for it.

        Raises:
            PlatformError: the caller is on an event loop, which waiting would block.
        """
        try:
            self._refuse_on_a_loop()
            self.check()
        except MantaError:
            work.close()
            raise
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future.result()

    def _refuse_on_a_loop(self) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        raise PlatformError("a synchronous call inside an event loop", fix="await the async form")


_current: ContextVar[CurrentTask | None] = ContextVar("current_task", default=None)


def current_task() -> CurrentTask:
    """The task that this code is part of; threads that LangChain and asyncio start for it are, too.

    Raises:
        PlatformError: there is none.
        MantaError: it is over or was stopped.
    """
    found = _current.get()
    if found is None:
        raise PlatformError(
            "no task of a run is at work here", fix="use it from a graph's `runnable` or `call` step"
        )
    found.check()
    return found


@contextmanager
def at_work(context: AgentContext) -> Iterator[CurrentTask]:
    """Make `context` the current task's. Threads that outlive the block can make no further call."""
    task = CurrentTask(context)
    token = _current.set(task)
    try:
        yield task
    finally:
        _current.reset(token)
        task.stop(RunCancelled("the step that this code belongs to is over"))
