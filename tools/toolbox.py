"""What a tool is, and the box an agent's tools lie in: schemas, argument checks, time and size limits."""

import asyncio
import importlib
import inspect
import json
import typing
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar, overload

import jsonschema
import pydantic
from pydantic_core import to_jsonable_python

from manta.errors import InvalidConfig, InvalidInput, MantaError, NotFound, ToolError
from manta.messages import Json, ToolSpec, to_json
from manta.protocols import Artifacts, Documents

DEFAULT_TIMEOUT_S = 120.0
DEFAULT_MAX_BYTES = 256 * 1024


class ToolContext(Protocol):
    """What a tool may use of the task it works for; an `AgentContext` is one."""

    @property
    def documents(self) -> Documents: ...

    @property
    def artifacts(self) -> Artifacts: ...

    @property
    def workdir(self) -> Path: ...


ToolRun: TypeAlias = Callable[[Mapping[str, Any], ToolContext | None], Awaitable[Json]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool. `parameters` is a JSON Schema object; `run` takes checked arguments and returns plain JSON.

    A tool that is not `idempotent` is never run again while the outcome of an earlier run is unknown.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    run: ToolRun
    idempotent: bool = True

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec(self.name, self.description, self.parameters)


class Toolbox(Mapping[str, Tool]):
    """Tools by name, each run within limits.

    Args:
        timeout_s: seconds one call may take.
        max_bytes: size of a result as JSON text in UTF-8.

    Raises:
        InvalidConfig: two tools have one name, or a schema is not one.
    """

    def __init__(
        self,
        tools: Iterable[Tool] = (),
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        self._tools: dict[str, Tool] = {}
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        for tool in tools:
            if tool.name in self._tools:
                raise InvalidConfig(f"two tools are named {tool.name!r}", fix="rename one")
            try:
                jsonschema.Draft202012Validator.check_schema(tool.parameters)
            except jsonschema.SchemaError as error:
                raise InvalidConfig(f"tool {tool.name}: bad schema: {error.message}", fix="mend it") from None
            self._tools[tool.name] = tool

    def __getitem__(self, name: str) -> Tool:
        return self._tools[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tools)

    def __len__(self) -> int:
        return len(self._tools)

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        return tuple(tool.spec for tool in self._tools.values())

    def with_tools(self, *tools: Tool) -> "Toolbox":
        """A box with these as well, under the same limits."""
        return Toolbox((*self._tools.values(), *tools), timeout_s=self._timeout_s, max_bytes=self._max_bytes)

    async def call(self, name: str, arguments: Mapping[str, Any], context: ToolContext | None = None) -> Json:
        """Run a tool and return its result as plain JSON.

        Raises:
            ToolError: no such tool, wrong arguments, too slow, too large, or the tool's own failure.
            MantaError: of another class, only when trying again later makes sense.
        """
        tool = self._tools.get(name)
        if tool is None:
            raise ToolError(f"there is no tool {name!r}", fix=f"tools: {', '.join(self._tools) or 'none'}")
        problems = list(
            islice(jsonschema.Draft202012Validator(tool.parameters).iter_errors(dict(arguments)), 3)
        )
        if problems:
            causes = "; ".join(_where(p.absolute_path) + p.message[:200] for p in problems)
            raise ToolError(f"{name}: {causes}", fix="follow the tool's schema")
        result = await self._within_time(tool, arguments, context)
        return self._plain(name, result)

    async def _within_time(
        self, tool: Tool, arguments: Mapping[str, Any], context: ToolContext | None
    ) -> Any:
        limit = asyncio.timeout(self._timeout_s)
        try:
            async with limit:
                return await tool.run(arguments, context)
        except TimeoutError as error:
            if limit.expired():
                raise ToolError(f"{tool.name} took over {self._timeout_s:g} s", fix="ask for less") from None
            raise _failed(tool, error) from error
        except (InvalidInput, NotFound) as error:
            raise ToolError(error.message, fix=error.fix) from error
        except MantaError:
            raise
        except Exception as error:
            raise _failed(tool, error) from error

    def _plain(self, name: str, result: Any) -> Json:
        try:
            text = json.dumps(to_json(result), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ToolError(f"{name} returned what is not JSON: {error}", fix="return plain values") from None
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > self._max_bytes:
            raise ToolError(f"{name} returned {size} bytes, over {self._max_bytes}", fix="ask for less")
        return typing.cast(Json, json.loads(text))


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    *, name: str | None = None, description: str | None = None, idempotent: bool = True
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    idempotent: bool = True,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a tool of an annotated function; its docstring is the description, its signature the schema.

    A parameter named `context` is handed the `ToolContext` and does not show in the schema. A function that
    is not async runs in a thread.

    Raises:
        InvalidConfig: a parameter cannot be described, or there is no description.
    """

    def make(function: Callable[..., Any]) -> Tool:
        tool_name = name or function.__name__
        text = description or inspect.getdoc(function) or ""
        if not text:
            raise InvalidConfig(
                f"the tool {tool_name} has no description", fix="give the function a docstring"
            )
        model = _arguments_model(tool_name, function)
        return Tool(tool_name, text, _schema(model), _runner(tool_name, function, model), idempotent)

    return make if function is None else make(function)


def as_tool(value: Any) -> Tool:
    """A `Tool`, a plain function, or a LangChain tool (known by its shape), as a `Tool`.

    Raises:
        InvalidConfig: it is none of these.
    """
    if isinstance(value, Tool):
        return value
    if all(hasattr(value, part) for part in ("name", "args_schema", "ainvoke")):
        return _of_langchain(value)
    if inspect.isroutine(value):
        return tool(value)
    raise InvalidConfig(f"{value!r} is not a tool", fix="give a Tool, a function or a LangChain tool")


def load_tool(import_path: str) -> Tool:
    """The tool at `module:name`. Raises InvalidConfig if it cannot be imported or is not a tool."""
    module, _, attribute = import_path.partition(":")
    try:
        value = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # Foreign code runs here: it may fail in any way.
        cause = f"cannot import the tool {import_path}: {type(error).__name__}: {error}"
        raise InvalidConfig(cause, fix="give it as module:name") from error
    return as_tool(value)


def _arguments_model(name: str, function: Callable[..., Any]) -> type[pydantic.BaseModel]:
    hints = typing.get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "context":
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise InvalidConfig(f"tool {name}: {parameter} cannot be described", fix="use named parameters")
        if parameter.name not in hints:
            raise InvalidConfig(f"tool {name}: parameter {parameter.name} has no type", fix="annotate it")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], default)
    try:
        return pydantic.create_model(name, __config__=pydantic.ConfigDict(extra="forbid"), **fields)
    except (pydantic.errors.PydanticUserError, NameError) as error:
        cause = str(error).splitlines()[0]
        raise InvalidConfig(f"tool {name}: {cause}", fix="use types JSON can carry") from None


def _schema(model: type[pydantic.BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    schema.pop("title", None)
    schema.setdefault("properties", {})
    return schema


def _runner(name: str, function: Callable[..., Any], model: type[pydantic.BaseModel]) -> ToolRun:
    wants_context = "context" in inspect.signature(function).parameters
    is_async = inspect.iscoroutinefunction(function)

    async def run(arguments: Mapping[str, Any], context: ToolContext | None) -> Json:
        try:
            checked = model.model_validate(dict(arguments))
        except pydantic.ValidationError as error:
            causes = "; ".join(_where(e["loc"]) + e["msg"] for e in error.errors()[:3])
            raise ToolError(f"{name}: {causes}", fix="follow the tool's schema") from None
        given = {field: getattr(checked, field) for field in model.model_fields}
        if wants_context:
            given["context"] = context
        result = await function(**given) if is_async else await asyncio.to_thread(function, **given)
        return typing.cast(Json, to_jsonable_python(result))

    return run


def _of_langchain(value: Any) -> Tool:
    schema = getattr(value, "tool_call_schema", None) or value.args_schema
    parameters = dict(schema) if isinstance(schema, Mapping) else schema.model_json_schema()
    parameters.setdefault("type", "object")
    parameters.setdefault("properties", {})

    async def run(arguments: Mapping[str, Any], context: ToolContext | None) -> Json:
        return typing.cast(Json, to_jsonable_python(await value.ainvoke(dict(arguments))))

    return Tool(value.name, value.description or value.name, parameters, run)


def _where(path: Iterable[Any]) -> str:
    dotted = ".".join(map(str, path))
    return f"{dotted}: " if dotted else ""


def _failed(tool: Tool, error: Exception) -> ToolError:
    cause = " ".join(str(error).split())[:500]
    return ToolError(f"{tool.name} failed: {type(error).__name__}: {cause}")
