"""LangChain tools under the record, for graphs that are built when their module is imported."""

from collections.abc import Coroutine
from typing import Any

from langchain_core.tools import BaseTool, StructuredTool

from agents.current_task import current_task
from manta.errors import MantaError, ToolError


def recorded_tool(tool: BaseTool, *, idempotent: bool = True) -> BaseTool:
    """The tool, with each of its calls recorded by the task that is at work then, and replayed when done.

    Args:
        idempotent: whether it may run again when the outcome of an earlier run is not known. Without it
            such a call ends the step, whatever the graph above makes of errors, and a person decides.

    Its result becomes plain JSON. Outside a task it raises PlatformError.
    """

    async def run(**arguments: Any) -> Any:
        task = current_task()

        async def inner() -> Any:
            try:
                return await tool.ainvoke(arguments)
            except MantaError:
                raise
            except Exception as error:  # That it failed is an outcome too.
                cause = " ".join(str(error).split())[:500]
                raise ToolError(f"{tool.name} failed: {type(error).__name__}: {cause}") from error

        try:
            return await task.context.call_tool(tool.name, arguments, inner, idempotent=idempotent)
        except ToolError:
            raise
        except MantaError as error:
            task.stop(error)
            raise

    def run_in_thread(**arguments: Any) -> Any:
        work: Coroutine[Any, Any, Any] = run(**arguments)
        return current_task().wait_for(work)

    return StructuredTool(
        name=tool.name,
        description=tool.description,
        args_schema=tool.tool_call_schema,
        func=run_in_thread,
        coroutine=run,
        return_direct=tool.return_direct,
        handle_tool_error=tool.handle_tool_error,
        tags=tool.tags,
        metadata=tool.metadata,
    )
