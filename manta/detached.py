"""Work that a request begins and that goes on when the request does not."""

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, TypeVar

from manta.telemetry import log_scope

T = TypeVar("T")


def detached(work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """A task with a context of its own, but for the scope of the log.

    A context names the Ray task that a call is made from. When a client leaves, Ray cancels its request's task and all
    calls that were made from it or are made from it later (ray#52476): those of a task that others wait for
    too, and that by which the gateway cancels the run that was left.
    """
    context = contextvars.Context()
    context.run(log_scope.set, log_scope.get())
    return asyncio.create_task(work, context=context)
