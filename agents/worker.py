"""The built-in agent behind `prompt`, `tool`, `call` and `runnable` steps; a task's options say which it is."""

from typing import Any

from agents.base import AgentSetup
from agents.functions import call_function
from agents.prompt_step import ask_prompt
from agents.runnables import run_runnable
from manta.errors import InvalidInput
from manta.graph import Step
from manta.protocols import AgentContext

WORKER = "worker"
"""The name of its pool."""
BACKGROUND = "background"
"""A worker's pool for `call` steps that may take hours, so that they hold no place that others wait for."""


def pool_of(step: Step) -> str:
    """The name of the pool that does a step."""
    return step.agent or step.pool or WORKER


class Worker:
    def __init__(self, setup: AgentSetup) -> None:
        self._tools = setup.tools

    async def run(self, context: AgentContext) -> Any:
        """Options hold one of `prompt` (its fields), `tool` (a name), `call` or `runnable` (an import path)."""
        match context.task.options:
            case {"prompt": dict(prompt)}:
                return await ask_prompt(context, prompt)
            case {"tool": str(name)}:
                return await self._tool(context, name)
            case {"call": str(path)}:
                return await call_function(context, path)
            case {"runnable": str(path)}:
                return await run_runnable(context, path)
        raise InvalidInput(
            "the task does not say what the worker shall do", fix="name another agent in the graph's step"
        )

    async def _tool(self, context: AgentContext, name: str) -> Any:
        arguments = context.task.input
        tool = self._tools.get(name)

        async def run() -> Any:
            return await self._tools.call(name, arguments, context)

        return await context.call_tool(name, arguments, run, idempotent=tool is None or tool.idempotent)
