"""A graph's `call` step: a Python function of the step's input."""

import asyncio
import inspect
from typing import Any

from agents.current_task import at_work
from agents.importing import imported, named_failures
from manta.errors import StepError
from manta.protocols import AgentContext


async def call_function(context: AgentContext, path: str) -> Any:
    """Call what `path` names with the task's input as named arguments; it must be safe to repeat.

    A parameter named `context` is given the task's context unless the input has a value for it. A function
    that is not async runs in a thread, so that the process goes on answering.

    Raises:
        InvalidConfig: it cannot be imported.
        StepError: the input does not fit its parameters, or it failed.
    """
    function = await imported(path, "call")
    arguments = dict(context.task.input)
    try:
        signature = inspect.signature(function)
        if "context" in signature.parameters:
            arguments.setdefault("context", context)
        signature.bind(**arguments)
    except (TypeError, ValueError) as error:
        raise StepError(f"{path}: {error}", fix="match its parameters and the step's input") from None
    with at_work(context), named_failures(path):
        if inspect.iscoroutinefunction(function):
            return await function(**arguments)
        return await asyncio.to_thread(function, **arguments)
