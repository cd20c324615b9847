"""The built-in agent behind `tool` and `call` steps: no model, one recorded tool call or one Python function."""

import asyncio
import importlib
import inspect
from typing import Any

from agents.base import AgentSetup
from manta.errors import InvalidConfig, StepError
from manta.protocols import AgentContext

WORKER = "worker"
"""The name of its pool."""


class Worker:
    def __init__(self, setup: AgentSetup) -> None:
        self._tools = setup.tools

    async def run(self, context: AgentContext) -> Any:
        """Options hold `tool`, a tool's name, or `call`, an import path; the step's input are the arguments."""
        options, arguments = context.task.options, context.task.input
        if "tool" in options:
            name = str(options["tool"])
            tool = self._tools[name]
            return await context.call_tool(
                name,
                arguments,
                lambda: self._tools.call(name, arguments, context),
                idempotent=tool.idempotent,
            )
        return await self._call(str(options["call"]), arguments)

    async def _call(self, path: str, arguments: dict[str, Any]) -> Any:
        """A plain function of the step's input; it must be safe to repeat, like every step."""
        module, _, name = path.partition(":")
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise InvalidConfig(f"cannot import {path}: {error}", fix="check the graph's `call`") from None
        try:
            inspect.signature(function).bind(**arguments)
        except TypeError as error:
            raise StepError(f"{path}: {error}", fix="match its parameters and the step's input") from None
        if inspect.iscoroutinefunction(function):
            return await function(**arguments)
        # In a thread: the actor must go on answering, to a cancel too, while the function works.
        return await asyncio.to_thread(function, **arguments)
