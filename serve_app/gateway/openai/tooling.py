"""Messages, tools and the choice among them, read with the place of what is wrong."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from manta.errors import InvalidInput
from manta.messages import ToolSpec
from serve_app.gateway.errors import BadField
from serve_app.gateway.openai.forms import valid_schema
from serve_app.openai_wire import choice_from_wire, tools_from_wire

T = TypeVar("T")


def each(values: Sequence[Any], read: Callable[[Any], T], param: str) -> list[T]:
    """Every value as `read` has it. Raises BadField with the place of the one that cannot be read."""
    found = []
    for index, value in enumerate(values):
        try:
            found.append(read(value))
        except InvalidInput as error:
            raise _placed(error, f"{param}[{index}]") from None
    return found


def _placed(error: InvalidInput, param: str) -> BadField:
    code = error.code if isinstance(error, BadField) else None
    return BadField(error.message, fix=error.fix, code=code, param=param)


def read_tools(
    tools: Sequence[Mapping[str, Any]] | None, choice: Any
) -> tuple[tuple[ToolSpec, ...], str | None]:
    """The tools that may be called, and the `tool_choice` of a `ChatRequest`.

    Raises:
        BadField: one of them is no function, or the choice is not among them.
    """
    specs = each(tools or (), _function, "tools")
    names = [spec.name for spec in specs]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise BadField(f"two tools are called {name!r}", fix="give each a name", param=f"tools[{index}]")
    allowed = _allowed(choice)
    if allowed is not None:
        mode, wanted = allowed
        unknown = [name for name in wanted if name not in names]
        if unknown or not wanted:
            raise _bad_choice(f"there is no tool {unknown[0]!r}" if unknown else "no tool is allowed")
        return tuple(spec for spec in specs if spec.name in wanted), mode
    try:
        kept = choice_from_wire(choice, specs)
    except InvalidInput as error:
        raise _placed(error, "tool_choice") from None
    if kept == "required" and not specs:
        raise _bad_choice("tool_choice is required, and there are no tools")
    return tuple(specs), kept


def _function(tool: Any) -> ToolSpec:
    kind = tool.get("type", "function") if isinstance(tool, Mapping) else "function"
    if kind != "function":
        raise BadField(
            f"tools of type {str(kind)[:40]!r} are not supported",
            fix="send tools of type function",
            code="unsupported_parameter",
        )
    spec = tools_from_wire([tool])[0]
    try:
        valid_schema(spec.parameters)
    except ValueError as error:
        raise InvalidInput(f"the parameters of {spec.name!r}: {error}", fix="see json-schema.org") from None
    return spec


def _allowed(choice: Any) -> tuple[str, list[str]] | None:
    """The mode and the tools' names of a choice of the type `allowed_tools`, else None."""
    if not isinstance(choice, Mapping) or choice.get("type") != "allowed_tools":
        return None
    # /v1/responses has the same without the inner object.
    inner = choice.get("allowed_tools", choice)
    mode = inner.get("mode") if isinstance(inner, Mapping) else None
    listed = inner.get("tools") if isinstance(inner, Mapping) else None
    if mode not in ("auto", "required") or not isinstance(listed, list):
        raise _bad_choice("allowed_tools has a mode (auto or required) and tools")
    return mode, [_name(tool) for tool in listed]


def _name(tool: Any) -> str:
    inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(name, str):
        raise _bad_choice("a tool of allowed_tools has no name")
    return name


def _bad_choice(message: str) -> BadField:
    return BadField(message, fix="see the tools of the request", param="tool_choice")
