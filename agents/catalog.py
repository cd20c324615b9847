"""Agents by name: the built-in ones, and any class, function or object a settings file points at."""

import importlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from agents.base import AgentSetup
from manta.config import AgentSettings, SandboxSettings, SearchSettings
from manta.errors import InvalidConfig
from manta.messages import ModelInfo, to_json
from manta.protocols import Agent, AgentContext
from tools.toolbox import Tool, Toolbox, load_tool

BUILT_IN = {
    "planner": "agents.planner:Planner",
    "research": "agents.research:Researcher",
    "analyst": "agents.analyst:Analyst",
    "writer": "agents.writer:Writer",
    "assistant": "agents.assistant:Assistant",
    "worker": "agents.worker:Worker",
    "background": "agents.worker:Worker",
}


class FunctionAgent:
    """An agent that is one async function of the context."""

    def __init__(self, function: Callable[[AgentContext], Awaitable[Any]]) -> None:
        self._function = function

    async def run(self, context: AgentContext) -> Any:
        return to_json(await self._function(context))


def load_agent(
    name: str,
    settings: AgentSettings,
    *,
    tools: Mapping[str, str] | None = None,
    search: SearchSettings | None = None,
    sandbox: SandboxSettings | None = None,
) -> Agent:
    """The agent of one pool.

    Args:
        settings: `use` is `module:name` of a class that takes an `AgentSetup`, of an object with an async
            `run(context)`, or of an async function of the context; empty is the built-in of this name.
        tools: import paths of the tools that `settings.tools` may name.

    Raises:
        InvalidConfig: the agent or one of its tools cannot be loaded.
    """
    path = settings.use or BUILT_IN.get(name)
    if path is None:
        raise InvalidConfig(
            f"there is no agent {name!r}", fix=f"set agents.{name}.use, or take one of {', '.join(BUILT_IN)}"
        )
    found = _import(path)
    if inspect.isclass(found):
        setup = AgentSetup(
            name=name,
            strategy=settings.strategy,
            options=dict(settings.options),
            tools=Toolbox(_named_tools(name, settings, tools or {})),
            search=search or SearchSettings(),
            sandbox=sandbox or SandboxSettings(),
        )
        found = _construct(path, found, setup)
    if inspect.iscoroutinefunction(found):
        return FunctionAgent(found)
    if not inspect.iscoroutinefunction(getattr(found, "run", None)):
        raise InvalidConfig(f"{path} is not an agent", fix="give it `async def run(self, context)`")
    agent: Agent = found
    return agent


def choose_strategy(
    strategy: Literal["auto", "pipeline", "agent"], info: ModelInfo
) -> Literal["pipeline", "agent"]:
    """`auto` is the model-driven loop for models that call tools reliably, fixed steps for the others."""
    if strategy != "auto":
        return strategy
    return "agent" if "tools" in info.abilities else "pipeline"


def _named_tools(agent: str, settings: AgentSettings, paths: Mapping[str, str]) -> list[Tool]:
    unknown = [tool for tool in settings.tools if tool not in paths]
    if unknown:
        known = ", ".join(sorted(paths)) or "none"
        raise InvalidConfig(f"agents.{agent}.tools: no tool {unknown[0]!r}", fix=f"tools: {known}")
    return [load_tool(paths[tool]) for tool in settings.tools]


def _import(path: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # Foreign code runs here: it may fail in any way.
        cause = f"cannot import the agent {path}: {type(error).__name__}: {error}"
        raise InvalidConfig(cause, fix="give it as module:name") from error


def _construct(path: str, kind: type, setup: AgentSetup) -> Any:
    try:
        inspect.signature(kind).bind(setup)
    except TypeError:
        raise InvalidConfig(f"{path} does not take an AgentSetup", fix="def __init__(self, setup)") from None
    return kind(setup)
