"""Tools: their schemas, what is checked, what is limited."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from langchain_core.tools import BaseTool, InjectedToolArg
from langchain_core.tools import tool as langchain_tool
from pydantic import BaseModel, Field

from manta.errors import InvalidConfig, StaleEpoch, ToolError, UnreadableData
from tools.toolbox import Tool, Toolbox, ToolContext, as_tool, load_tool, tool


class Place(BaseModel):
    city: str
    zone: Literal["a", "b"] = "a"


@dataclass
class Weather:
    city: str
    degrees: float


@tool(idempotent=False)
async def weather(
    place: Place, days: Annotated[int, Field(ge=1, le=7, description="how far ahead")] = 1
) -> Weather:
    """The weather of a place."""
    return Weather(f"{place.city}/{place.zone}", days * 1.5)


@tool
def where(name: str, context: ToolContext | None = None) -> str:
    """Says whether it has a context."""
    return f"{name}: {context is not None}"


def plain(a: int, b: int = 2) -> int:
    """Multiplies."""
    return a * b


@langchain_tool
async def lookup(key: str, secret: Annotated[str, InjectedToolArg] = "s") -> dict[str, str]:
    """Looks a key up."""
    return {key: secret}


NOT_A_TOOL = 3


def test_a_signature_becomes_a_schema():
    assert (weather.name, weather.description, weather.idempotent) == (
        "weather",
        "The weather of a place.",
        False,
    )
    properties = weather.parameters["properties"]
    assert properties["days"] == {
        "default": 1,
        "description": "how far ahead",
        "maximum": 7,
        "minimum": 1,
        "title": "Days",
        "type": "integer",
    }
    assert weather.parameters["required"] == ["place"]
    assert weather.parameters["additionalProperties"] is False
    assert list(where.parameters["properties"]) == ["name"]
    assert weather.spec.parameters == weather.parameters


async def test_arguments_arrive_typed_and_results_leave_as_json(tmp_path):
    box = Toolbox([weather, where])
    given = {"place": {"city": "Rome", "zone": "b"}, "days": 2}
    assert await box.call("weather", given) == {"city": "Rome/b", "degrees": 3.0}
    assert await box.call("where", {"name": "x"}) == "x: False"


async def test_the_context_is_handed_over(tmp_path):
    from agents.context import LocalCallLog
    from agents.scripted import ScriptedModel
    from tests.agents.loop_support import Attempt

    context = Attempt(ScriptedModel([]), LocalCallLog(), tmp_path).context
    assert await Toolbox([where]).call("where", {"name": "x"}, context) == "x: True"


@pytest.mark.parametrize(
    ("name", "arguments", "cause"),
    [
        ("absent", {}, "there is no tool 'absent'"),
        ("weather", {}, "'place' is a required property"),
        ("weather", {"place": {"city": 1}}, "place.city: 1 is not of type 'string'"),
        ("weather", {"place": {"city": "x"}, "days": 8}, "days: 8 is greater"),
        ("weather", {"place": {"city": "x"}, "way": 1}, "'way' was unexpected"),
    ],
)
async def test_wrong_calls_are_refused_with_their_cause(name, arguments, cause):
    with pytest.raises(ToolError) as caught:
        await Toolbox([weather]).call(name, arguments)
    assert cause in str(caught.value)


async def test_what_json_schema_lets_through_pydantic_still_checks():
    @tool
    def short(text: Annotated[str, Field(pattern=r"^\d+$")]) -> str:
        """Takes digits."""
        return text

    loose = Tool(short.name, short.description, {"type": "object"}, short.run)
    with pytest.raises(ToolError, match="text: String should match"):
        await Toolbox([loose]).call("short", {"text": "x"})


def _raising(error: Exception) -> Tool:
    async def run(arguments: Any, context: Any) -> None:
        raise error

    return Tool("t", "Fails.", {"type": "object"}, run)


async def test_failures_become_tool_errors_but_fencing_does_not():
    with pytest.raises(ToolError, match="t failed: ValueError: odd line"):
        await Toolbox([_raising(ValueError("odd\nline"))]).call("t", {})
    with pytest.raises(ToolError, match="t failed: TimeoutError"):
        await Toolbox([_raising(TimeoutError())]).call("t", {})
    with pytest.raises(ToolError, match="not a table") as caught:
        await Toolbox([_raising(UnreadableData("not a table", fix="give a CSV"))]).call("t", {})
    assert caught.value.fix == "give a CSV"
    with pytest.raises(StaleEpoch):
        await Toolbox([_raising(StaleEpoch("late"))]).call("t", {})


async def test_time_and_size_are_limited():
    stopped = asyncio.Event()

    async def hang(arguments: Any, context: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async def big(arguments: Any, context: Any) -> str:
        return "x" * 100

    box = Toolbox(
        [Tool("hang", "-", {"type": "object"}, hang), Tool("big", "-", {"type": "object"}, big)],
        timeout_s=0.01,
        max_bytes=50,
    )
    with pytest.raises(ToolError, match=r"hang took over 0\.01 s"):
        await box.call("hang", {})
    assert stopped.is_set()
    with pytest.raises(ToolError, match="big returned 102 bytes, over 50"):
        await box.call("big", {})


async def test_a_result_that_is_not_json_is_refused():
    async def odd(arguments: Any, context: Any) -> Any:
        return {"x": float("inf")}

    with pytest.raises(ToolError, match="not JSON"):
        await Toolbox([Tool("odd", "-", {"type": "object"}, odd)]).call("odd", {})


def test_a_box_is_a_mapping_and_refuses_what_cannot_work():
    box = Toolbox([weather]).with_tools(where)
    assert list(box) == ["weather", "where"]
    assert (len(box), box["where"]) == (2, where)
    assert [s.name for s in box.specs] == ["weather", "where"]
    with pytest.raises(InvalidConfig, match="two tools are named 'weather'"):
        Toolbox([weather, weather])
    with pytest.raises(InvalidConfig, match="bad schema"):
        Toolbox([Tool("t", "-", {"type": "nonsense"}, weather.run)])


def _untyped(a) -> None:
    """Has no type."""


def _open(*words: str) -> None:
    """Takes any number."""


def _silent(a: int) -> None:
    pass


@pytest.mark.parametrize(
    ("function", "cause"),
    [(_untyped, "has no type"), (_open, "cannot be described"), (_silent, "no description")],
)
def test_a_function_that_cannot_be_described_is_refused(function, cause):
    with pytest.raises(InvalidConfig, match=cause):
        tool(function)


async def test_a_plain_function_and_a_langchain_tool_are_tools_too():
    box = Toolbox([as_tool(plain), as_tool(lookup)])
    assert await box.call("plain", {"a": 3}) == 6
    assert await box.call("lookup", {"key": "k"}) == {"k": "s"}
    assert list(box["lookup"].parameters["properties"]) == ["key"]
    assert as_tool(weather) is weather
    assert isinstance(lookup, BaseTool)


async def test_tools_are_loaded_by_import_path():
    module = __name__
    assert load_tool(f"{module}:weather").name == "weather"
    assert load_tool(f"{module}:plain").name == "plain"
    for path, cause in [
        (f"{module}:absent", "cannot import"),
        ("no.such.module:x", "cannot import"),
        (f"{module}:NOT_A_TOOL", "is not a tool"),
    ]:
        with pytest.raises(InvalidConfig, match=cause):
            load_tool(path)
