"""What a request says of its tools, in the words that all backends ask it with."""

import pytest

from manta.messages import ChatRequest, ToolSpec

TOOL = ToolSpec("search", "Finds.", {"type": "object"})


@pytest.mark.parametrize(
    ("choice", "offered", "must_call", "named"),
    [
        (None, True, False, None),
        ("auto", True, False, None),
        ("none", False, False, None),
        ("required", True, True, None),
        ("search", True, True, "search"),
    ],
)
def test_a_choice_of_tools(choice: str | None, offered: bool, must_call: bool, named: str | None) -> None:
    request = ChatRequest((), tools=(TOOL,), tool_choice=choice)
    assert request.offered == ((TOOL,) if offered else ())
    assert (request.must_call, request.named_tool) == (must_call, named)


def test_without_tools_a_choice_means_nothing() -> None:
    request = ChatRequest((), tool_choice="required")
    assert (request.offered, request.must_call, request.named_tool) == ((), False, None)
