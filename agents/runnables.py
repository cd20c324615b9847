"""A graph's `runnable` step: a LangChain Runnable or a LangGraph graph of the user's own.

The import path names the thing itself, or a function of the context that builds it. It is given the step's
input and its output becomes plain JSON. Its model and tool calls are recorded when it makes them through
`agents.chat_model` and `agents.recorded_tool`; after a crash it runs again and those are replayed.
"""

import asyncio
import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from agents.current_task import at_work
from agents.importing import imported, named_failures
from manta.errors import InvalidConfig, StepError
from manta.protocols import AgentContext

_INTERRUPTS = ("interrupt_before_nodes", "interrupt_after_nodes")
_ROLES = {"human": "user", "ai": "assistant", "AIMessageChunk": "assistant"}


async def run_runnable(context: AgentContext, path: str) -> Any:
    """Invoke what `path` names with the task's input.

    Raises:
        InvalidConfig: it cannot be imported, or is no runnable.
        StepError: it failed; code `interrupt_refused`: it stops to ask a person.
    """
    found = await imported(path, "runnable")
    with at_work(context) as task, named_failures(path):
        runnable = await _built(found, context, path)
        try:
            output = await _invoked(runnable, context)
        finally:
            # What ended the task comes first, whatever the code above it made of the error.
            task.check()
        if isinstance(output, Mapping) and output.get("__interrupt__"):
            raise _interrupted(path)
        return plain(output)


async def _built(found: Any, context: AgentContext, path: str) -> Any:
    if not _is_runnable(found):
        if not callable(found) or inspect.isclass(found):
            raise _no_runnable(path, found)
        found = found(context)
        if inspect.isawaitable(found):
            found = await found
        if not _is_runnable(found):
            raise _no_runnable(path, found)
    if any(getattr(found, name, None) for name in _INTERRUPTS):
        raise _interrupted(path)
    return found


def _is_runnable(value: Any) -> bool:
    can = any(callable(getattr(value, name, None)) for name in ("ainvoke", "invoke"))
    return can and not inspect.isclass(value)


async def _invoked(runnable: Any, context: AgentContext) -> Any:
    scope = context.task.scope
    if not callable(getattr(runnable, "ainvoke", None)):
        return await asyncio.to_thread(runnable.invoke, context.task.input)
    # A graph with a checkpointer wants a thread. The record alone says what was done before, so each try has its own.
    thread = f"{scope.run}/{scope.step}/{scope.epoch}.{scope.attempt}"
    return await runnable.ainvoke(context.task.input, {"configurable": {"thread_id": thread}})


def plain(value: Any) -> Any:
    """LangChain's values as plain JSON; a message becomes `{role, content}`. What is no JSON stays as it is."""
    from langchain_core.messages import BaseMessage
    from langchain_core.prompt_values import PromptValue

    if isinstance(value, BaseMessage):
        role = str(getattr(value, "role", "") or _ROLES.get(value.type, value.type))
        return {"role": role, "content": str(value.text)}
    if isinstance(value, PromptValue):
        return [plain(message) for message in value.to_messages()]
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    try:
        return to_jsonable_python(value)
    except PydanticSerializationError:
        return value


def _no_runnable(path: str, found: Any) -> InvalidConfig:
    fix = "name a Runnable, a compiled graph, or a function of the context that returns one"
    if hasattr(found, "compile"):
        fix = "call its compile()"
    return InvalidConfig(f"{path} is a {type(found).__name__}, which cannot be invoked", fix=fix)


def _interrupted(path: str) -> StepError:
    return StepError(
        f"{path} stops to ask a person, which a runnable step cannot wait for",
        fix="ask with an approval step of the graph",
        code="interrupt_refused",
    )
